"""ImagePredictor against a real server behind the local target, and against answers that only AWS gives."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from PIL import Image

from pipeline.errors import ImageRefused, ServiceError, UsageError
from pipeline.local.sagemaker.session import local_session
from pipeline.local.store.state import State
from pipeline.service import predictor
from pipeline.service.predictor import ImagePredictor, Prediction
from tests.local.samples import processes_of
from tests.service.labelling import deployed, end
from tests.service.plain_versions import ENDPOINT

CAT = Prediction("cat", 0.9, (("cat", 0.9), ("other", 0.1)))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("predictor") / "home"
    deployed(home)
    yield home
    end(home)
    assert not processes_of(home)


@pytest.fixture
def asked(home: Path) -> ImagePredictor:
    return ImagePredictor(ENDPOINT, local_session(State(home)))


class Answers:
    """A session whose endpoint gives the errors that it is told to."""

    def __init__(self, *errors: dict[str, Any]) -> None:
        self.errors = list(errors)

    def client(self, service: str, /) -> "Answers":
        assert service == "sagemaker-runtime"
        return self

    def invoke_endpoint(self, **request: Any) -> dict[str, Any]:
        if self.errors:
            raise ClientError(self.errors.pop(0), "InvokeEndpoint")  # type: ignore[arg-type]
        return {"Body": io.BytesIO(b'{"label": "a", "score": 1, "top": [{"label": "a", "score": 1}]}')}


def test_a_path_bytes_and_a_pil_image_are_classified(asked, tmp_path):
    path = tmp_path / "cat.jpg"
    path.write_bytes(b"cat 0.9")
    assert asked.predict(path) == asked.predict(str(path)) == asked.predict(b"cat 0.9") == CAT
    assert asked.predict(Image.new("RGB", (3, 2))) == Prediction("png", 0.75, (("png", 0.75), ("other", 0.25)))


def test_a_list_is_answered_in_its_order(asked):
    bodies = [f"c{number} 0.{number}".encode() for number in range(1, 10)]
    assert [found.label for found in asked.predict(bodies)] == [f"c{number}" for number in range(1, 10)]
    assert asked.predict([]) == []


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr"])
def test_a_pil_image_of_any_mode_is_sent_without_loss(mode):
    image = Image.new(mode, (4, 3))
    sent = Image.open(io.BytesIO(predictor.content(image)))
    assert sent.format == "PNG"
    assert sent.convert("RGBA").tobytes() == image.convert("RGB" if mode == "CMYK" else mode).convert("RGBA").tobytes()


def test_a_pil_image_is_sent_upright():
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (4, 2), "red").save(buffer, "JPEG", exif=exif)
    sent = Image.open(io.BytesIO(predictor.content(Image.open(buffer))))
    assert (sent.size, sent.getexif().get(0x0112)) == ((2, 4), None)


def test_an_image_that_the_model_refuses_is_a_sentence(asked):
    with pytest.raises(ImageRefused) as caught:
        asked.predict(b"noise")
    assert str(caught.value) == "The endpoint refused the image: The image cannot be read."
    with pytest.raises(ImageRefused):
        asked.predict([b"cat 0.9", b"noise"])


def test_each_image_has_its_answer_or_its_reason(asked, tmp_path):
    first, second, third, fourth = asked.ask_each([b"noise", b"cat 0.9", tmp_path / "none.jpg", 7])
    assert str(first) == "The endpoint refused the image: The image cannot be read."
    assert second["label"] == "cat"
    assert str(third) == f"No such image: {tmp_path / 'none.jpg'}"
    assert str(fourth) == "A path, bytes or a PIL image can be classified, but got int."


def test_a_busy_server_is_asked_again_and_not_for_ever(asked, monkeypatch):
    monkeypatch.setattr(predictor, "BUSY_WAITS_SECONDS", (0.001,) * 4)
    assert asked.ask(b"busy 3") == {"calls": 3}
    with pytest.raises(ImageRefused) as caught:
        asked.ask(b"busy 99")
    assert str(caught.value) == "The endpoint refused the image: Full."


def test_the_answer_of_another_model_is_no_prediction(asked):
    assert asked.ask(b"most")["most"] >= 1
    with pytest.raises(ServiceError, match=r"^The endpoint's answer has no label, score and top: \{"):
        asked.predict(b"most")


def test_an_endpoint_that_is_not_there_ends_everything(home):
    missing = ImagePredictor("none", local_session(State(home)))
    with pytest.raises(ServiceError) as caught:
        list(missing.ask_each([b"a", b"b"]))
    assert str(caught.value) == ("Could not invoke endpoint 'none': Endpoint none of account 000000000000 not found.")


def test_what_aws_refuses_for_its_size_is_about_that_image():
    too_large = {"Error": {"Code": "413", "Message": "Body too large."}, "ResponseMetadata": {"HTTPStatusCode": 413}}
    first, second = ImagePredictor("e", Answers(too_large)).ask_each([b"a", b"b"])
    answers = sorted([first, second], key=lambda answer: isinstance(answer, dict))
    assert str(answers[0]) == "SageMaker refused the image: Body too large."
    assert answers[1] == {"label": "a", "score": 1, "top": [{"label": "a", "score": 1}]}


def test_without_a_session_it_is_this_machine_and_makes_no_home(monkeypatch, tmp_path):
    monkeypatch.setattr(predictor, "ROOT", tmp_path / "project")
    with pytest.raises(ServiceError):
        ImagePredictor("none").predict(b"a")
    assert list(tmp_path.iterdir()) == []
    deployed(tmp_path / "project/.local")
    try:
        assert ImagePredictor(ENDPOINT).predict(b"cat 0.9") == CAT
    finally:
        end(tmp_path / "project/.local")


def test_a_value_that_is_no_image_is_a_usage_error():
    with pytest.raises(UsageError):
        predictor.content({"image": 1})
