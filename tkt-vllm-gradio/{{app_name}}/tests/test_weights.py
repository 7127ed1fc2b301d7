"""Where a model's files are. Folders and MLflow here; the hub only as far as it needs no hub."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.errors import Refused, Unavailable
from agent.hub import Hub, _wanted, progress
from agent.weights import Sources, in_folder, read_folder

pytestmark = pytest.mark.anyio

GIB = 2**30


def model(folder: Path, config: str = "config.json", **sizes: int) -> Path:
    """A model's folder; `sizes` are bytes of files, with `_` for each dot of a name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / config).write_text(json.dumps({"model_type": "qwen2", "r": 16}))
    for name, size in sizes.items():
        (folder / name.replace("_", ".")).write_bytes(b"x" * size)
    return folder


class FakeHub:
    """A hub with one model, `owner/known`."""

    async def look(self, name: str) -> dict[str, Any]:
        if name != "owner/known":
            raise Refused(f"There is no such model at the hub ({name}).")
        return {"config": {"hidden_size": 8}, "weights": 1000}

    async def fetch(self, name: str, tell: Any) -> Path:
        tell("download", "all of it")
        return Path("/cache") / name


def registry(folder: Path | Exception | None) -> Any:
    """An MLflow of which each model is in `folder`, or fails with an exception."""

    async def found(_: str) -> tuple[Path, str] | None:
        if isinstance(folder, Exception):
            raise folder
        return (folder, "qwen, version 3") if folder else None

    return SimpleNamespace(folder=found, mirror=found)


async def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = model(tmp_path / "my-model", a_safetensors=30, b_safetensors=12)

    found = await Sources(FakeHub(), None).look(str(folder))

    assert (found.name, found.size, found.folder) == ("my-model", 42, folder)
    assert found.origin == f"folder {folder}"
    assert await Sources(FakeHub(), None).folder(found, lambda *_: None) == folder


async def test_a_folder_may_begin_with_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model(tmp_path / "one", a_safetensors=1)

    assert (await Sources(FakeHub(), None).look("~/one")).folder == tmp_path / "one"


async def test_a_model_of_the_hub_is_looked_up_and_downloaded_only_when_it_is_wanted() -> None:
    sources, told = Sources(FakeHub(), None), []

    found = await sources.look("owner/known")
    assert (found.name, found.origin, found.size) == ("owner/known", "the hub", 1000)
    assert found.folder is None

    assert await sources.folder(found, lambda *far: told.append(far)) == Path("/cache/owner/known")
    assert told == [("download", "all of it")]


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("/no/such/folder", "There is no folder /no/such/folder; correct MODEL_ID or ADAPTERS."),
        ("models:/qwen", "models:/qwen is MLflow's, and no MLFLOW_TRACKING_URI is set."),
        ("qwen", "'qwen' is no owner/name of the hub, no folder and no models:/name."),
        ("a/b/c", "'a/b/c' is no owner/name of the hub, no folder and no models:/name."),
        ("owner/unknown", "There is no such model at the hub (owner/unknown)."),
    ],
)
async def test_a_source_that_leads_nowhere_is_refused_with_a_sentence(
    source: str, sentence: str
) -> None:
    with pytest.raises(Refused) as refusal:
        await Sources(FakeHub(), None).look(source)

    assert str(refusal.value) == sentence


@pytest.mark.parametrize("name", ["@a/", "a/.b", "-a/b", "a/b--c"])
async def test_a_name_that_the_hub_cannot_have_is_refused_without_asking_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there

    with pytest.raises(Refused, match=f"'{name}' is no owner/name that the hub can have."):
        await Hub("").look(name)


@pytest.mark.parametrize("uri", ["models:/qwen", "models:/qwen/3", "models:/qwen@champion"])
async def test_a_model_of_mlflow_is_called_by_its_name_there(uri: str, tmp_path: Path) -> None:
    found = await Sources(FakeHub(), registry(model(tmp_path, a_safetensors=9))).look(uri)

    assert (found.name, found.size, found.folder) == ("qwen", 9, tmp_path)
    assert found.origin == "MLflow: qwen, version 3"


async def test_a_hub_model_that_mlflow_mirrors_is_read_from_there(tmp_path: Path) -> None:
    found = await Sources(FakeHub(), registry(model(tmp_path))).look("owner/known")

    assert (found.name, found.folder) == ("owner/known", tmp_path)


async def test_without_a_usable_mirror_the_hub_is_asked(tmp_path: Path) -> None:
    for mirror in (None, Unavailable("MLflow is away."), tmp_path):  # the last holds no model
        found = await Sources(FakeHub(), registry(mirror)).look("owner/known")
        assert found.origin == "the hub"


def test_what_mlflows_transformers_flavour_saved_is_found_with_its_tokenizer(
    tmp_path: Path,
) -> None:
    model(tmp_path / "model", model_safetensors=7)
    (tmp_path / "components" / "tokenizer").mkdir(parents=True)

    found = in_folder("qwen", tmp_path, "MLflow")

    assert (found.folder, found.size) == (tmp_path / "model", 7)
    assert found.tokenizer == tmp_path / "components" / "tokenizer"


def test_an_adapter_is_known_by_its_rank_and_a_model_has_none(tmp_path: Path) -> None:
    adapter = model(tmp_path / "lora", "adapter_config.json", adapter_safetensors=3)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")

    assert in_folder("lora", adapter, "").rank == 16
    assert in_folder("base", tmp_path / "base", "").rank == 0


@pytest.mark.parametrize("text", ["{not json", "[1]", "3"])
def test_a_configuration_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)

    with pytest.raises(Refused, match=r"config\.json is no JSON"):
        in_folder("qwen", tmp_path, "")


def test_a_folder_without_a_configuration_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"holds neither config\.json nor adapter_config\.json"):
        in_folder("qwen", tmp_path, "")


def test_weights_are_counted_once_however_often_they_are_there(tmp_path: Path) -> None:
    """Mistral ships its weights twice, of which vLLM reads one; others as .bin as well."""
    sizes = {"model-1_safetensors": 20, "model-2_safetensors": 22, "consolidated_safetensors": 42}
    folder = model(tmp_path, **sizes, pytorch_model_bin=42, optimizer_pt=99)

    assert read_folder(folder)[1] == 42
    files = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(size for name, size in _wanted(files).items() if "config" not in name) == 42


def test_of_the_hubs_files_only_those_are_taken_that_an_engine_reads() -> None:
    files = {
        "config.json": 1, "tokenizer.model": 1, "chat_template.jinja": 1, "README.md": 1,
        "model.safetensors": 9, "pytorch_model.bin": 9, "original/consolidated.00.pth": 9,
        "onnx/model.onnx": 9, "logo.png": 1,
    }  # fmt: skip

    assert set(_wanted(files)) == {
        "config.json", "tokenizer.model", "chat_template.jinja", "model.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("done", "total", "seconds", "said"),
    [
        (0, 4 * GIB, 0, "0.00 GiB of 4.0 GiB"),
        (GIB, 4 * GIB, 1, "1.0 GiB of 4.0 GiB"),
        (GIB, 4 * GIB, 20, "1.0 GiB of 4.0 GiB, 60 s left"),
        (GIB, 4 * GIB, 200, "1.0 GiB of 4.0 GiB, 10 min left"),
        (4 * GIB, 4 * GIB, 200, "4.0 GiB of 4.0 GiB"),
    ],
)
def test_a_download_says_how_far_it_is(done: int, total: int, seconds: int, said: str) -> None:
    assert progress(done, total, seconds) == said
