"""The `bertline` command: each subcommand reads its arguments, calls one function and prints what it returns.

Messages and progress go to stderr; `--json` prints one JSON object on stdout (`predict`: one per line). The README
lists the exit codes. Heavy imports stay inside the subcommands, so that `--help` is quick.
"""

import json
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from bertline import __version__
from bertline.artifacts.errors import FULL, WRONG, BertlineError, InputError, PreemptedError, install_advice
from bertline.export.options import LAYOUTS, MAX_DROP, PREFERENCES, TARGETS, ExportOptions

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
path_type = click.Path(path_type=Path)
model_option = click.option(
    "--model", help="Model that the DeepSpeed checkpoint is of: a folder or hub id.  [default: the one beside it]"
)
trust_option = click.option(
    "--trust-checkpoint", "trust", is_flag=True, help="Allow the checkpoint's pickles to run code as they load."
)
gpus_option = click.option("--gpus", type=click.IntRange(1), help="GPUs of this machine to use.  [default: all]")
ranks_option = click.option(
    "--ranks", type=click.IntRange(1), help="CPU ranks, where there is no GPU.  [default: one per NUMA node]"
)
hostfile_option = click.option(
    "--hostfile", type=path_type, help="DeepSpeed hostfile: one line per machine, 'NAME slots=GPUS'."
)
drop_option = click.option(
    "--max-drop",
    type=click.FloatRange(0, 1),
    default=MAX_DROP,
    show_default=True,
    help="Largest drop of the metric to accept.",
)
overrides_option = click.option(
    "--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key of the recipe; may be repeated."
)


def _named(ctx: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """A file's columns by our names."""
    if wrong := [each for each in given if "=" not in each]:
        raise InputError(f"--column {wrong[0]}: expected NAME=COLUMN, text=body for example")
    names = [each.partition("=")[0] for each in given]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--column {twice[0]}=…: given {names.count(twice[0])} times; it names one column")
    return dict(each.split("=", 1) for each in given)


columns_option = click.option(
    "--column", "columns", metavar="NAME=COLUMN", multiple=True, callback=_named,
    help="Map an input to a column of the file, e.g. text=body; may be repeated.",
)  # fmt: skip
signature_option = click.option(
    "--trust",
    "public_key",
    type=path_type,
    metavar="PUBLIC_KEY",
    help="Require BUNDLE to be signed by this public key (PEM).",
)

EXTRAS = {
    "check": ("train",),
    "train": ("train",),
    "search": ("train", "search"),
    "export": ("export",),
    "gather": ("export",),
    "bench": ("export",),
    "shrink": ("train", "export"),
    "demo": ("train", "export", "demo"),
    "serve": ("serve",),
}
"""The extras that a command needs beyond the base dependencies."""


class Group(click.Group):
    """Ends with the exit code of a BertlineError and its message on stderr, instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BertlineError as error:
            click.echo(str(error), err=True)
            ctx.exit(error.exit_code)
        except ModuleNotFoundError as error:
            if ctx.invoked_subcommand not in EXTRAS or str(error.name).startswith("bertline"):
                raise
            click.echo(f"{error.name} is not installed; {install_advice(*EXTRAS[ctx.invoked_subcommand])}", err=True)
            ctx.exit(2)
        except OSError as error:
            if error.errno not in (*FULL, *WRONG):
                raise
            click.echo(f"{error.filename or 'the disk'}: {error.strerror}; nothing was overwritten", err=True)
            ctx.exit(2)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bertline")
def main() -> None:
    """A production line for encoder models: recipe -> train -> export -> bench, serve, predict."""
    if sys.platform != "linux":
        raise InputError(
            f"bertline runs on Linux, and this is {sys.platform}: use a container (launch/cluster/ has "
            "serve.Dockerfile and train.Dockerfile) or, on Windows, WSL"
        )
    signal.signal(signal.SIGTERM, _leave)  # like Ctrl-C, so that partial output is removed
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        signal.signal(signal.SIGHUP, _leave)


@main.command()
@click.argument("recipe", type=path_type)
@overrides_option
@gpus_option
@ranks_option
@hostfile_option
@click.option("--run", type=path_type, help="Folder of the run.  [default: runs/NAME]")
@click.option("--resume", is_flag=True, help="Continue from the newest checkpoint of the run.")
@click.option(
    "--dry-run", is_flag=True, help="Print the recipe, DeepSpeed's configuration and the command line, and exit."
)
@json_option
def train(recipe: Path, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Fine-tune a model as RECIPE says, with DeepSpeed."""
    from bertline.launch import train

    options = _with_devices(**options)
    if dry_run:
        plan = train.plan(recipe, **options)
        _print(plan.as_json(), as_json) if as_json else click.echo(plan.words())
        return
    folder = train.start(recipe, **options)
    if as_json:
        _print(train.result(folder), as_json)


@main.command()
@click.argument("recipe", type=path_type)
@overrides_option
@json_option
def check(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what the data of RECIPE contains and what the model will see of it. Loads no model."""
    from bertline.artifacts import recipe as recipes
    from bertline.launch import check
    from bertline.train.data.survey import survey

    found = survey(recipes.load(recipe, overrides))
    _print(found, as_json) if as_json else check.show(found)


@main.command()
@click.argument("recipe", type=path_type)
@overrides_option
@gpus_option
@ranks_option
@hostfile_option
@click.option("-o", "--output", type=path_type, metavar="DIR", help="Folder of the search.  [default: searches/NAME]")
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="ray: run trials side by side on the cluster that RAY_ADDRESS names, each with the --gpus or --ranks given.",
)  # fmt: skip
@json_option
def search(recipe: Path, as_json: bool, **options: Any) -> None:
    """Try the settings that RECIPE lists, by cross-validation. Run it again to continue."""
    _hear_schedulers()
    from bertline.launch import search

    result = search.search(recipe, say=_say, **options)
    if as_json:
        _print(result, as_json)


@main.command()
@click.argument("source", metavar="RUN|MODEL|CHECKPOINT")
@click.option("-o", "--output", type=path_type, metavar="BUNDLE", help="Folder to make.  [default: bundles/NAME]")
@drop_option
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="auto",
    show_default=True,
    help="CPU class that will serve the bundle; auto: this machine's.",
)
@click.option("--portable", is_flag=True, help="Seal a model for every CPU class.")
@click.option(
    "--prefer", type=click.Choice(PREFERENCES), default="latency", show_default=True,
    help="What to optimize for among the candidates within --max-drop.",
)  # fmt: skip
@click.option("--max-size", type=click.FloatRange(0, min_open=True), metavar="MB", help="Largest model to accept.")
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Also optimize for batches of this size."
)
@click.option("--only", metavar="NAME", multiple=True, help="Try this candidate only; may be repeated.")
@click.option(
    "--metric", metavar="NAME", help="Score to hold candidates to.  [default: the run's, or the task's first]"
)
@click.option("--quick", is_flag=True, help="Try only the usual winner of ONNX Runtime, timed once.")
@click.option("--allow-fp32", is_flag=True, help="Accept the fp32 model if no other passes.")
@click.option(
    "--calibration",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Maximum number of calibration texts for static quantization.",
)
@click.option(
    "--layout",
    type=click.Choice(LAYOUTS),
    default="huggingface",
    show_default=True,
    help="triton: BUNDLE is a model of a Triton model repository, by default triton/NAME.",
)
@click.option(
    "--data",
    type=path_type,
    help="Labelled examples to measure on; required without a run.  [default: the run's validation split]",
)
@columns_option
@click.option(
    "--trim-vocabulary",
    metavar="TEXTS",
    help="Keep only tokens that occur in this file of texts or in the measured examples.",
)
@model_option
@trust_option
@click.option(
    "--sign", type=path_type, metavar="KEY", help="Sign the bundle with this private elliptic-curve key (PEM)."
)
@json_option
def export(source: str, output: Path | None, as_json: bool, **options: Any) -> None:
    """Make a bundle: the fastest int8 ONNX model shown to stay within --max-drop on this CPU."""
    from bertline.export import sources
    from bertline.export.export import export as make

    export_options = ExportOptions(**{field.name: options.pop(field.name) for field in fields(ExportOptions)})
    bundle = output or Path("triton" if export_options.layout == "triton" else "bundles", sources.called(source))
    result = make(source, bundle, export_options, say=_say, **options)
    if as_json:
        _print(result, as_json)


@main.command()
@click.argument("place", metavar="RUN", type=path_type)
@drop_option
@click.option(
    "--unlabelled",
    metavar="TEXTS",
    help="More texts for the students to learn from, labelled by RUN: file, glob or hub id.",
)
@click.option("-o", "--output", type=path_type, metavar="BUNDLE", help="Folder to make.  [default: bundles/NAME-small]")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Override a key of the students' recipe; may be repeated.",
)
@gpus_option
@ranks_option
@hostfile_option
@json_option
def shrink(place: Path, output: Path | None, as_json: bool, **options: Any) -> None:
    """Make a bundle of the fastest student of RUN shown to stay within --max-drop."""
    _hear_schedulers()
    from bertline.export import sources
    from bertline.launch import shrink

    bundle = output or Path("bundles", f"{sources.called(str(place))}-small")
    result = shrink.shrink(place, bundle, say=_say, **_with_devices(**options))
    if as_json:
        _print(result, as_json)


@main.command()
@click.argument("bundle", type=path_type)
@click.argument("repo", metavar="ORG/NAME")
@click.option("--dry-run", is_flag=True, help="Show what would be uploaded, without using the network.")
@json_option
def push(bundle: Path, repo: str, dry_run: bool, as_json: bool) -> None:
    """Upload BUNDLE to a model hub in one commit. Creates a private repository if there is none."""
    from bertline.export.sealing import publish

    result = publish.push(bundle, repo, dry_run, _say)
    if as_json:
        _print(result, as_json)


@main.command()
@click.argument("checkpoint", type=path_type)
@click.option("-o", "--output", type=path_type, metavar="FOLDER", required=True, help="Folder to make.")
@model_option
@trust_option
@json_option
def gather(checkpoint: Path, output: Path, model: str | None, trust: bool, as_json: bool) -> None:
    """Convert a DeepSpeed CHECKPOINT to a Hugging Face folder, merging the shards of all ranks."""
    from bertline.export.gathering.gather import gather as make

    _print(make(checkpoint, output, model, trust), as_json)


@main.command()
@click.argument("bundle", type=path_type)
@click.option(
    "--against",
    metavar="MODEL|BUNDLE",
    multiple=True,
    help="Run, model or bundle to compare with; may be repeated.  [default: the reference model of BUNDLE]",
)
@click.option("--data", type=path_type, help="Labelled examples to score.  [default: the run's test split]")
@columns_option
@click.option("--html", type=path_type, help="Write the report as a self-contained page.")
@signature_option
@json_option
def bench(bundle: Path, public_key: Path | None, as_json: bool, **options: Any) -> None:
    """Measure BUNDLE against the PyTorch model it came from, and against that model in ONNX Runtime fp32."""
    from bertline.launch import bench

    result = bench.bench(bundle, say=_say, signed=_demand_signature(bundle, public_key), **options)
    _print(result, as_json) if as_json else bench.show(result)


@main.command()
@click.argument("bundle", type=path_type)
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option(
    "--in",
    "source",
    type=path_type,
    help="File of inputs (CSV, TSV, JSON, JSONL, CoNLL, Parquet, Arrow) with the columns that BUNDLE takes: text and "
    "text_pair, or question and context.",
)
@columns_option
@click.option(
    "--out", "target", type=path_type, help="File of answers: .jsonl, .jsonl.gz, .csv, .parquet.  [default: stdout]"
)
@click.option("--errors", type=path_type, help="JSON Lines file for bad rows.  [default: stop at the first one]")
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="ray: use all machines of the cluster that RAY_ADDRESS names.",
)  # fmt: skip
@signature_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per TEXT on stdout, as for a file.")
def predict(bundle: Path, public_key: Path | None, **options: Any) -> None:
    """Answer TEXTs, or the rows of a file, with BUNDLE. A bundle for pairs takes TEXTs two at a time."""
    from bertline.launch import predict

    predict.predict(bundle, _demand_signature(bundle, public_key), **options)


@main.command()
@click.argument("bundles", metavar="BUNDLE...", nargs=-1, required=True, type=path_type)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all interfaces."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for any free port.",
)
@click.option("--threads", type=click.IntRange(1), help="Cores to compute on.  [default: all physical cores]")
@click.option(
    "--api-keys",
    "keys",
    type=path_type,
    metavar="FILE",
    help="Require an API key listed in FILE, one per line; lines that start with # are comments.",
)
@click.option(
    "--cors",
    "origins",
    metavar="ORIGIN",
    multiple=True,
    help="Allow cross-origin requests from ORIGIN; may be repeated.  [default: none]",
)
@click.option(
    "--limit",
    "limits",
    metavar="NAME=VALUE",
    multiple=True,
    help="Limit per request: body_bytes, texts, characters or seconds; may be repeated.",
)
@signature_option
def serve(bundles: tuple[Path, ...], **options: Any) -> None:
    """Answer over HTTP from BUNDLEs: Hugging Face's format, Open Inference Protocol v2, and a page."""
    from bertline.launch import serve

    serve.serve(bundles, **options)


@main.command()
@click.argument("folder", metavar="RUN|BUNDLE", type=path_type)
@signature_option
@json_option
def inspect(folder: Path, public_key: Path | None, as_json: bool) -> None:
    """Show what a folder is, where it comes from and what it measured. Verifies its checksums."""
    from bertline.launch import inspect

    _print(inspect.facts(folder, _demand_signature(folder, public_key)), as_json)


@main.command()
@json_option
def demo(as_json: bool) -> None:
    """Train, export, measure and query a real model on real reviews, from installed packages alone."""
    _hear_schedulers()
    from bertline.launch import demo

    result = demo.demo(_say)
    if as_json:
        _print(result, as_json)


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show what this machine can do: GPUs, DeepSpeed ops, CPU instruction sets, runtimes, versions."""
    from bertline.launch import doctor

    _print(doctor.facts(), as_json)


def _with_devices(gpus: int | None, ranks: int | None, hostfile: Path | None, **others: Any) -> dict[str, Any]:
    """The options of a command, with `devices` instead of --gpus, --ranks and --hostfile, which ask for them."""
    from bertline.launch.devices import Devices

    return {"devices": Devices.choose(gpus, ranks, hostfile), **others}


def _hear_schedulers() -> None:
    """End on SIGUSR1 as a training does, also between two trainings, so that the same command can resume."""
    if signal.getsignal(signal.SIGUSR1) is not signal.SIG_IGN:
        signal.signal(signal.SIGUSR1, lambda *_: sys.exit(PreemptedError.exit_code))


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)


def _demand_signature(bundle: Path, public_key: Path | None) -> str | None:
    """The sha256 of the signed manifest if a key is given, checked before anything else of the bundle is read."""
    if public_key is None:
        return None
    from bertline.artifacts import signature

    signed = signature.verify(bundle, public_key)
    _say(f"{bundle}: signed by the owner of {public_key}")
    return signed


def _print(value: Any, as_json: bool) -> None:
    """Print a value as JSON, or as YAML, which is easier to read."""
    import yaml

    if as_json:
        click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))
    else:
        click.echo(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120), nl=False)


def _say(words: str) -> None:
    click.echo(words, err=True)


if __name__ == "__main__":
    sys.exit(main())
