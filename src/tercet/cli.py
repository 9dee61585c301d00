"""The command line: words to workflows. A workflow is imported only when its verb runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, TextIO, cast

from tercet import __version__
from tercet.ground.errors import ConfigError, explain
from tercet.ground.registry import nearest
from tercet.ground.streams import PatientStream, printable, write
from tercet.records.config import DataConfig, FusionConfig
from tercet.records.entries import shown
from tercet.records.model_config import ModelConfig
from tercet.records.options import Options, Parsed
from tercet.workflows import options as verbs
from tercet.workflows import study_options as studies


@dataclass(frozen=True)
class Answer:
    """What a verb has to say: once for people, once for programs."""

    text: str
    document: Any
    exit_code: int = 0


def _console() -> Any:
    from rich.console import Console

    return Console(file=cast("IO[str]", PatientStream(sys.stderr)))


def _told(run: Any) -> Answer:
    """Return the answer of a verb that leaves a run."""
    return Answer(f"{run.report}\nrun folder: {run.path}\nbundle:     {run.path / 'bundle'}\n", dict(run.metrics))


def _train(parsed: Parsed) -> Answer:
    from tercet.workflows.train import run_training

    resume = parsed.of(verbs.ResumeConfig).resume
    return _told(run_training(parsed.positional["data"], parsed, resume=resume, console=_console()))


def _crossval(parsed: Parsed) -> Answer:
    from tercet.workflows.crossval import run_crossval

    resume = parsed.of(verbs.ResumeConfig).resume
    return _told(run_crossval(parsed.positional["data"], parsed, resume=resume, console=_console()))


def _tune(parsed: Parsed) -> Answer:
    from tercet.workflows.tune import run_tuning

    resume, space = parsed.of(verbs.ResumeConfig).resume, parsed.of(studies.TuneConfig).space
    tuning = run_tuning(parsed.positional["data"], parsed, space=space, resume=resume, console=_console())
    return Answer(f"{tuning.report}\nfolder: {tuning.path}\nbest:   {tuning.best}\n", dict(tuning.metrics))


def _ensemble(parsed: Parsed) -> Answer:
    from tercet.workflows.ensemble import run_ensemble

    run = run_ensemble(parsed.positional["runs"], parsed, console=_console())
    return Answer(f"{run.report}\nbundle: {run.path / 'bundle'}\n", dict(run.metrics))


def _evaluate(parsed: Parsed) -> Answer:
    from tercet.workflows.infer import evaluate

    place = parsed.of(verbs.DeviceConfig)
    evaluation = evaluate(
        parsed.positional["bundle"],
        parsed.positional["data"],
        config=parsed.of(DataConfig),
        tta=parsed.of(verbs.ViewsConfig).tta,
        batch_size=place.batch_size,
        device=place.device,
    )
    return Answer(evaluation.to_text(), evaluation.to_dict())


def _predict(parsed: Parsed) -> Answer:
    from tercet.workflows.infer import predict_files

    config, place = parsed.of(verbs.PredictConfig), parsed.of(verbs.DeviceConfig)
    result = predict_files(
        parsed.positional["bundle"],
        parsed.positional["images"],
        csv=config.csv,
        submission=config.submission,
        top=config.top,
        tta=parsed.of(verbs.ViewsConfig).tta,
        batch_size=place.batch_size,
        device=place.device,
    )
    return Answer(result.to_text(), result.to_dict(), exit_code=3 if result.bad else 0)


def _blend(parsed: Parsed) -> Answer:
    from tercet.workflows.blend import blend

    config = parsed.of(verbs.BlendConfig)
    result = blend(
        parsed.positional["files"], method=config.method, labels=config.labels, ties=config.ties, keep=config.keep
    )
    if config.output is not None:
        result.save(Path(config.output))
    return Answer(result.to_text(), result.to_dict())


def _compare(parsed: Parsed) -> Answer:
    from tercet.workflows.compare import run_comparison

    resume = parsed.of(verbs.ResumeConfig).resume
    found = run_comparison(parsed.positional["data"], parsed, resume=resume, console=_console())
    return Answer(f"{found.report}\nfolder: {found.path}\n", dict(found.metrics), found.exit_code)


def _runs(parsed: Parsed) -> Answer:
    from tercet.workflows.runs import runs

    found = runs(parsed.positional["folder"] or "runs", sort=parsed.of(studies.RunsConfig).sort)
    return Answer(found.to_text(), found.to_dict())


def _models(parsed: Parsed) -> Answer:
    from tercet.workflows.inspect import describe_model, list_models

    name, network = parsed.positional["name"], parsed.of(verbs.NetworkConfig)
    if name is None:
        answer = list_models()
    else:
        size = (network.image_size[0], network.image_size[-1])
        answer = describe_model(
            name,
            num_classes=network.classes,
            config=parsed.of(ModelConfig),
            channels=network.channels,
            image_size=size,
            num_members=network.members,
            fusion=parsed.of(FusionConfig),
        )
    return Answer(answer.text, answer.document)


def _datasets(parsed: Parsed) -> Answer:
    from tercet.workflows.inspect import describe_dataset, list_datasets

    name = parsed.positional["name"]
    answer = list_datasets() if name is None else describe_dataset(name)
    return Answer(answer.text, answer.document)


def _demo(parsed: Parsed) -> Answer:
    from tercet.workflows.demo import demo

    return _told(demo(output=parsed.of(verbs.DemoConfig).output, console=_console()))


VERBS: Mapping[str, tuple[Options, Callable[[Parsed], Answer]]] = {
    "train": (verbs.TRAIN, _train),
    "predict": (verbs.PREDICT, _predict),
    "evaluate": (verbs.EVALUATE, _evaluate),
    "ensemble": (verbs.ENSEMBLE, _ensemble),
    "blend": (verbs.BLEND, _blend),
    "crossval": (studies.CROSSVAL, _crossval),
    "compare": (studies.COMPARE, _compare),
    "tune": (studies.TUNE, _tune),
    "runs": (studies.RUNS, _runs),
    "models": (verbs.MODELS, _models),
    "datasets": (verbs.DATASETS, _datasets),
    "demo": (verbs.DEMO, _demo),
}
_PURPOSES = {
    "From images to answers": ("train", "predict", "evaluate"),
    "Fuse what exists": ("ensemble", "blend"),
    "Many trainings, measured alike": ("crossval", "compare", "tune", "runs"),
    "Look around": ("models", "datasets", "demo"),
}


def usage() -> str:
    """Return what `tercet --help` prints."""
    width = max(map(len, VERBS))
    lines: list[str] = []
    for purpose, names in _PURPOSES.items():
        lines += ["", f"{purpose}:", *(f"  {name:<{width}}  {VERBS[name][0].summary()}" for name in names)]
    return (
        f"tercet {__version__}: from a folder of images to one fused classifier.\n\n"
        "Usage: tercet VERB [words] [options]\n" + "\n".join(lines) + "\n\n"
        "tercet VERB --help tells a verb's options. Every verb takes --json for programs.\n"
        "Exit codes: 0 done, 2 options, 3 data, 4 model, 5 disk, 6 diverged, 7 memory.\n"
        "A first run, two minutes, no download: tercet demo\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code.

    0 done; 2 usage; 3 data; 4 model, bundle or checkpoint; 5 disk or permission; 6 diverged; 7 out of memory;
    130 and 143 after Ctrl-C and SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported, by a verb
    try:
        with _listening():
            return _run(words)
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say, and to no one
        return 0
    except KeyboardInterrupt as stop:
        sigterm = isinstance(stop, _Terminated)
        return _complain(f"stopped by {'SIGTERM' if sigterm else 'Ctrl-C'}", 143 if sigterm else 130)
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        known = explain(error)
        if known is None:
            kind = type(error).__name__
            return _complain(f"this should not happen: {kind}: {error} (run again with --debug and report it)", 1)
        return _complain(str(known), known.exit_code, lines=isinstance(known, ConfigError))


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        write(sys.stdout if words else sys.stderr, usage())
        return 0 if words else 2
    if words[0] == "--version":
        write(sys.stdout, f"tercet {__version__}\n")
        return 0
    verb = words[0]
    if verb not in VERBS:
        raise ConfigError(f"unknown verb {shown(verb)}{nearest(verb, VERBS)} (verbs: {', '.join(VERBS)})")
    options, work = VERBS[verb]
    try:
        parsed = options.parse_args(words[1:])
    except SystemExit:  # help was asked for, and printed
        write(sys.stdout, "")
        return 0
    answer = work(parsed)
    as_json = parsed.of(verbs.OutputConfig).json
    write(sys.stdout, json.dumps(answer.document, allow_nan=False) + "\n" if as_json else answer.text)
    return answer.exit_code


class _Terminated(KeyboardInterrupt):
    """SIGTERM. Like Ctrl-C it is no `Exception`, so that nothing on its way takes it for damaged data."""


@contextmanager
def _listening() -> Iterator[None]:
    """Within the block SIGTERM ends the work in good order, and warnings are one line each."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    main_thread = threading.current_thread() is threading.main_thread()  # no other may set handlers
    handler = signal.signal(signal.SIGTERM, terminate) if main_thread else None
    show, warnings.showwarning = warnings.showwarning, _show_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        if main_thread:
            signal.signal(signal.SIGTERM, handler)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    PatientStream(sys.stderr).write(f"tercet: warning: {printable(str(message))}\n")


def _complain(message: str, exit_code: int, *, lines: bool = False) -> int:
    """Write an error as one line, or as the lines of a list of problems."""
    parts = message.split("\n") if lines else [message]
    PatientStream(sys.stderr).write("tercet: error: " + "\n".join(map(printable, parts)) + "\n")
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
