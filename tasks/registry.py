"""MLflow's model registry: versions, their tags and aliases. The only file that knows its names and URIs."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect.runtime import flow_run

from aesc.errors import AescError
from aesc.files import read_json
from tasks.detectability import detectability_of
from tasks.retries import retried_task
from tasks.run_folder import RunFolder
from tasks.tracking import FLOW_RUN_TAG, client, headline, log_run, pyfunc_file, unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, CHALLENGER = "champion", "challenger"
SERVED_WITH = (
    *("torch", "numpy", "pandas", "pillow", "scipy", "scikit-learn", "matplotlib"),
    *("pydantic", "safetensors", "pyyaml", "tqdm", "filelock", "pyarrow"),
)


@dataclass(frozen=True)
class Registered:
    """A model version and the run it came from."""

    name: str
    version: str
    run_id: str
    aliases: tuple[str, ...]


def model_name(category: str) -> str:
    """The registered model of a category."""
    return f"aesc-{category}"


def model_uri(category: str, version: str) -> str:
    """`models:/` URI of a version number or an alias."""
    separator = "/" if version.isdigit() else "@"
    return f"models:/{model_name(category)}{separator}{version}"


@retried_task(task_run_name="register {category}")
def register_model(category: str, run_folder: str) -> str:
    """Log the finished run to MLflow and make it a model version; the version. Safe to repeat."""
    return register_run(RunFolder(run_folder)).version


def register_run(run: RunFolder) -> Registered:
    """Log the run, add a version under alias `challenger` (and `champion` where there is none), tag both.

    Raises:
        AescError: MLflow cannot be reached; the run folder is kept and can be registered later.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    state = run.state
    if not run.metrics.is_file():
        raise AescError(run.path, "this run is not finished: it has no metrics.json", todo="run `aesc retrain` again")
    if state.get("finished"):
        return Registered(
            model_name(state["category"]), state["model_version"], state["mlflow_run_id"], tuple(state["aliases"])
        )
    try:
        run_id = log_run(run)
        registered = _register(run, run_id)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error, run) from error
    run.update(model_version=registered.version, aliases=list(registered.aliases))
    return registered


def download_detector(category: str, version: str, folder: Path) -> Path:
    """Fetch weights and operating point of a version or alias into `folder`, once; the detector's folder.

    Raises:
        AescError: no such model or version, or its files or MLflow cannot be reached.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    found = resolve(category, version)
    target = folder / found.run_id / "detector"
    if _is_whole(target):
        return target
    uri = client().tracking_uri
    try:
        with tempfile.TemporaryDirectory(dir=_made(folder)) as scratch:
            mlflow.artifacts.download_artifacts(
                run_id=found.run_id, artifact_path="detector", dst_path=scratch, tracking_uri=uri
            )
            _place(Path(scratch) / "detector", target)
    except (MlflowException, OSError) as error:
        raise AescError(
            model_uri(category, version),
            f"its files cannot be fetched: {str(error).splitlines()[0][:300]}",
            todo="check the artifact store, or retrain the category",
        ) from error
    return target


def _is_whole(detector: Path) -> bool:
    from aesc.operating_point import FILE

    return (detector / FILE).is_file()


def _place(fetched: Path, target: Path) -> None:
    """In one step: another process that wants the same detector must not read half of it."""
    _made(target.parent)
    try:
        fetched.rename(target)
    except OSError:
        if _is_whole(target):  # that of another process is as good
            return
        shutil.rmtree(target, ignore_errors=True)  # left by the code of before, which copied file by file
        fetched.rename(target)


def require_loadable(category: str, version: Registered) -> None:
    """Fetch a version anew and load it, past the cache of fetched detectors.

    Raises:
        AescError: its files are gone or damaged, or MLflow cannot be reached.
    """
    from aesc.detector import Detector

    with tempfile.TemporaryDirectory() as scratch:
        Detector.load(download_detector(category, version.version, Path(scratch)), device="cpu")


def only_category() -> str:
    """The category of the only registered model.

    Raises:
        AescError: there is none, or several.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        found = sorted(_categories(client()))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error
    if len(found) != 1:
        raise AescError(
            "--category",
            f"not given, and {len(found)} models are registered",
            allowed=", ".join(found) or "none yet",
            todo="name one" if found else "train one: aesc retrain --category NAME",
            usage=True,
        )
    return found[0]


def watched_categories() -> list[str]:
    """The categories that have a champion; raises AescError if MLflow cannot be reached."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        tracking = client()
        return sorted(name for name in _categories(tracking) if CHAMPION in _aliases(tracking, model_name(name)))
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error


def _categories(tracking: MlflowClient) -> set[str]:
    prefix = model_name("")
    names = {model.name for model in tracking.search_registered_models()}
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def resolve(category: str, version: str) -> Registered:
    """The registered version behind a number or an alias.

    Raises:
        AescError: there is none (it says which exist), or MLflow cannot be reached.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    tracking, name = client(), model_name(category)
    aliases: dict[str, str] = {}
    try:
        aliases = _aliases(tracking, name)
        number = version if version.isdigit() else aliases.get(version)
        found = tracking.get_model_version(name, number) if number else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise unreachable(error) from error
        found = None
    except (SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error
    if found is None:
        known = ", ".join(sorted(_categories(tracking)))
        raise AescError(
            model_uri(category, version),
            "no such model version",
            allowed=f"aliases of {name}: {', '.join(aliases) or 'none'}; categories with models: {known or 'none'}",
            todo=f"train one: aesc retrain --category {category}",
            usage=True,
        )
    number = str(found.version)
    return Registered(name, number, found.run_id, tuple(key for key, value in aliases.items() if value == number))


def made_by(category: str, flow_run_id: str) -> tuple[str, dict[str, str]] | None:
    """The version that a flow run of Prefect made, on whatever machine, and its tags; None if it made none.

    Raises:
        AescError: MLflow cannot be reached.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    wanted = f"name='{model_name(category)}' and tags.{FLOW_RUN_TAG}='{flow_run_id}'"
    try:
        found = client().search_model_versions(wanted)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error
    return (str(found[0].version), dict(found[0].tags)) if found else None


def finished_by(category: str, flow_run_id: str) -> tuple[str, dict[str, str]] | None:
    """As `made_by`, if the MLflow run of that version was brought to its end too."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    found = made_by(category, flow_run_id)
    if found is None:
        return None
    try:
        tracking = client()
        run_id = tracking.get_model_version(model_name(category), found[0]).run_id
        return found if tracking.get_run(run_id).info.status == "FINISHED" else None
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error


def find_version(category: str, alias: str) -> Registered | None:
    """The version behind an alias, or None if there is none; raises AescError if MLflow cannot be reached."""
    try:
        return resolve(category, alias)
    except AescError as error:
        if error.transient:
            raise
        return None


def newest_version(category: str) -> Registered | None:
    """The version that was registered last, or None; raises AescError if MLflow cannot be reached."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        found = client().search_model_versions(f"name='{model_name(category)}'")
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unreachable(error) from error
    if not found:
        return None
    return resolve(category, max((str(version.version) for version in found), key=int))


def _aliases(tracking: MlflowClient, name: str) -> dict[str, str]:
    """Alias to version number; search_model_versions would return none."""
    return {alias: str(number) for alias, number in tracking.get_registered_model(name).aliases.items()}


def _register(run: RunFolder, run_id: str) -> Registered:
    from mlflow.exceptions import MlflowException

    state, metrics = run.state, read_json(run.metrics)
    tracking, name = client(), model_name(state["category"])
    try:
        tracking.create_registered_model(name, description=f"Defect detector for {state['category']}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    existing = [model for model in tracking.search_model_versions(f"name='{name}'") if model.run_id == run_id]
    if existing:  # a repetition after a crash
        number = str(existing[0].version)
    else:
        logged = log_detector(run.detector, run_id)
        number = str(tracking.create_model_version(name, logged.model_uri, run_id, model_id=logged.model_id).version)
    for key, value in _version_tags(run, metrics).items():
        tracking.set_model_version_tag(name, number, key, value)
    from tasks.aliases import place_registered

    made_by_run = f"flow run {flow_run.name}" if flow_run.id else "aesc register"
    place_registered(Registered(name, number, run_id, ()), state["category"], by=made_by_run)
    aliases = tuple(sorted(key for key, value in _aliases(tracking, name).items() if value == number))
    return Registered(name, number, run_id, aliases)


def describe_version(run: RunFolder, text: str) -> None:
    """Make `text` (markdown) the description of the version that a run became."""
    state = run.state
    client().update_model_version(model_name(state["category"]), state["model_version"], description=text)


def log_detector(folder: Path, run_id: str) -> Any:
    """Log the detector in `folder` as the pyfunc `model` of an MLflow run; MLflow's description of it."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    text, number, flag = DataType.string, DataType.double, DataType.boolean
    always = {"score": number, "threshold": number, "verdict": text, "abstained": flag, "strategy": text}
    at_times = {"residual": number, "uncertainty": number, "combined": number, "heatmap": text, "mask": text}
    signature = ModelSignature(  # without inputs: see tasks/served_model.py
        outputs=Schema(
            [ColSpec(kind, key) for key, kind in always.items()]
            + [ColSpec(kind, key, required=False) for key, kind in at_times.items()]
        ),
        params=ParamSchema(
            [ParamSpec("strategy", text, "")]
            + [ParamSpec(key, flag, False) for key in ("all_scores", "heatmap", "mask")]
        ),
    )
    mlflow.set_tracking_uri(client().tracking_uri)
    with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that no input example is given: a path would not travel
        return mlflow.pyfunc.log_model(
            name="model",  # not "detector": the run has a folder of that name, and MLflow would mix the two
            python_model=str(pyfunc_file()),
            artifacts={"detector": str(folder)},
            code_paths=[str(Path(__file__).parent.parent / "aesc")],
            signature=signature,
            pip_requirements=["mlflow==" + importlib.metadata.version("mlflow"), *_served_with()],
        )


def _served_with() -> list[str]:
    # A local build such as 2.13.0+cpu is on no index: the public version stands for it.
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in SERVED_WITH]


def _version_tags(run: RunFolder, metrics: dict[str, Any]) -> dict[str, str]:
    state = run.state
    point = run.operating_point
    promise, abstention = (point[key][metrics["strategy"]] for key in ("image_promises", "abstentions"))
    tags = {
        "data_version": state["data_version"]["version"],
        "git_commit": state["commit"] or "none",
        "preset": state["preset"],
        "seed": str(metrics["seed"]),
        "weights_sha256": metrics["weights_sha256"],
        "strategy": metrics["strategy"],
        "residual": point["detection"]["residual"],
        "threshold": f"{promise['threshold']:.9g}",
        "promised_false_alarm_rate": f"{promise['attained']:.6g}",
        "promised_abstention_rate": f"{abstention['attained']:.6g}",
        "calibration_images": str(promise["n"]),
        "synthetic_defects": str(metrics["synthetic_defects"]),
    }
    if flow_run.id:  # not where `aesc register` does it
        tags[FLOW_RUN_TAG] = flow_run.id
    if found := detectability_of(run):
        tags["detectability"] = found["words"]
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        value = headline(metrics).get(name)
        tags[name] = "not available" if value is None else f"{value:.6g}"
    return tags
