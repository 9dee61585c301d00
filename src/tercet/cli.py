"""The command line: words to workflows. A workflow is imported only when its verb runs."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from tercet import __version__
from tercet.ground.errors import ConfigError, Interrupted, explain
from tercet.ground.registry import nearest
from tercet.records.config import DataConfig, FusionConfig
from tercet.records.model_config import ModelConfig
from tercet.records.options import Options, Parsed
from tercet.workflows import options as verbs


@dataclass(frozen=True)
class Answer:
    """What a verb has to say: once for people, once for programs."""

    text: str
    document: Any
    exit_code: int = 0


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def _train(parsed: Parsed) -> Answer:
    from tercet.workflows.train import run_training

    resume = parsed.of(verbs.ResumeConfig).resume
    run = run_training(parsed.positional["data"], parsed, resume=resume, console=_console())
    return Answer(f"{run.report}\nrun folder: {run.path}\nbundle:     {run.path / 'bundle'}\n", dict(run.metrics))


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
        top=config.top,
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

    run = demo(output=parsed.of(verbs.DemoConfig).output, console=_console())
    return Answer(f"{run.report}\nrun folder: {run.path}\nbundle:     {run.path / 'bundle'}\n", dict(run.metrics))


VERBS: Mapping[str, tuple[Options, Callable[[Parsed], Answer]]] = {
    "train": (verbs.TRAIN, _train),
    "ensemble": (verbs.ENSEMBLE, _ensemble),
    "evaluate": (verbs.EVALUATE, _evaluate),
    "predict": (verbs.PREDICT, _predict),
    "blend": (verbs.BLEND, _blend),
    "models": (verbs.MODELS, _models),
    "datasets": (verbs.DATASETS, _datasets),
    "demo": (verbs.DEMO, _demo),
}


def usage() -> str:
    """Return what `tercet --help` prints."""
    width = max(map(len, VERBS))
    lines = [
        f"  {name:<{width}}  {options.description.split('. ')[0].rstrip('.')}." for name, (options, _) in VERBS.items()
    ]
    return (
        f"tercet {__version__}: from a folder of images to one fused, measured, deployable classifier.\n\n"
        "Usage: tercet VERB [words] [options]\n\n" + "\n".join(lines) + "\n\n"
        "tercet VERB --help tells a verb's options. Every verb takes --json for programs.\n"
        "A first run, two minutes, no download: tercet demo\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code.

    0 done; 2 usage; 3 data; 4 model, bundle or checkpoint; 5 disk or permission; 6 diverged; 7 out of memory;
    130 and 143 after Ctrl-C and SIGTERM.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"tercet {__version__}")
        return 0
    warnings.showwarning = _show_warning
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is first imported, by a verb
    debug = "--debug" in words
    try:
        signal.signal(signal.SIGTERM, _terminate)
        return _run(words[0], words[1:])
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say, and to no one
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _complain("stopped by Ctrl-C", 130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        known = explain(error)
        if known is None:
            kind = type(error).__name__
            return _complain(f"this should not happen: {kind}: {error} (run again with --debug and report it)", 1)
        return _complain(str(known), known.exit_code)


def _run(verb: str, words: Sequence[str]) -> int:
    if verb not in VERBS:
        raise ConfigError(f"unknown verb '{verb}'{nearest(verb, VERBS)} (verbs: {', '.join(VERBS)})")
    options, work = VERBS[verb]
    parsed = options.parse_args(words)
    answer = work(parsed)
    _write(
        sys.stdout,
        json.dumps(answer.document, ensure_ascii=True) + "\n" if parsed.of(verbs.OutputConfig).json else answer.text,
    )
    return answer.exit_code


def _write(stream: TextIO, text: str) -> None:
    """Write text whose file names may hold what the terminal's encoding cannot."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _complain(message: str, exit_code: int) -> int:
    _write(sys.stderr, f"tercet: error: {message}\n")
    return exit_code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    _write(sys.stderr, f"tercet: warning: {message}\n")


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted("stopped by SIGTERM", number)


if __name__ == "__main__":
    sys.exit(main())
