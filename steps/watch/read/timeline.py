from watch.read.profile import MODES as MODES
from watch.read.profile import PHASE_TOTALS as PHASE_TOTALS
from watch.read.profile import STEP_COUNTS as STEP_COUNTS
from watch.read.profile import STEP_TOTALS as STEP_TOTALS
from watch.read.profile import Mode as Mode
