from watch.read.profile import Profile as Profile
from watch.read.profile import Samples as Samples
from watch.read.profile import read_profile as read_profile
