"""The encoder of Whisper large-v3's shape with random weights: alone, and from audio to codes.

    python bench/extract.py --device cuda --large --dtype float16 --num_workers 12 --save
    python bench/extract.py --device cpu --large --shape tiny --batches 2 --large_utterances 8

Alone: batches of 30 s of log-mel in memory, eager, compiled, as CUDA graphs, beside the device's
rate in a bare matrix product of the blocks' sizes. To codes: save_codebook.sh in this process on
LibriSpeech's utterances, repeated under new keys and padded to 30 s, the teacher loaded before.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from digits import librispeech
from encode import random_product
from extract_flops import count_flops
from extract_ours import CODEBOOK_SIZE, NUM_CODEBOOKS, Ours
from torch import Tensor

from k2distil.config import SaveCodebookConfig
from k2distil.teachers.whisper_encoder import WhisperDims, WhisperEncoder

SHAPES = {
    "large-v3": WhisperDims(128, 1280, 20, 32, 5120, 1500),
    "tiny": WhisperDims(80, 64, 2, 2, 256, 1500),
}
MEL_FRAMES, FRAMES = 3000, 1500  # of 30 s
COLUMNS = {"method": "", "batch": "", "utterances_per_second": ".2f", "of_matrix_rate": ".3f"}
COLUMNS |= {"over_encoder_alone": ".3f", "quantizer_share": ".4f"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of this part."""
    parser.add_argument("--large", action="store_true", help="this part; needs a GPU to be of use")
    parser.add_argument("--device", default="cpu", help="with --large: cpu, cuda, cuda:1")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--shape", choices=list(SHAPES), default="large-v3")
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32], help="utterances")
    parser.add_argument("--large_utterances", type=int, default=4000)
    parser.add_argument("--eager", action="store_true", help="not compiled: a minute less a batch")


@torch.inference_mode()
def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per way to run the encoder and batch, then one from audio to codes."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    dims = SHAPES[options.shape]
    torch.manual_seed(0)
    encoder = WhisperEncoder(dims).eval()
    torch.nn.init.normal_(encoder.positional_embedding, std=0.02)
    with tempfile.TemporaryDirectory() as name:
        checkpoint = _save(encoder, dims, Path(name))
        encoder.to(device, dtype)
        rows = []
        for batch in options.batches:
            rows += _alone(encoder, batch, options)
        eager = max(
            (row for row in rows if row["method"] == "encoder, eager"),
            key=lambda row: row["utterances_per_second"],
        )
        del encoder
        rows.append(_to_codes(checkpoint, eager, Path(name), options))
    fixed: dict[str, Any] = {"shape": options.shape, "dtype": options.dtype}
    if device.type == "cuda":
        fixed["gpu"] = torch.cuda.get_device_name(device)
    return [{**row, **fixed, "matrix_gflops": eager["matrix_gflops"]} for row in rows]


def _alone(
    encoder: WhisperEncoder, batch: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Every way to run the encoder on a batch, and the bare products, in turns."""
    weight = encoder.positional_embedding
    mel = torch.randn(batch, encoder.dims.num_mels, MEL_FRAMES).to(weight)
    lengths = [MEL_FRAMES] * batch

    def eager() -> Tensor:
        return encoder(mel, lengths, FRAMES)

    flops, _ = count_flops(eager)
    ways: dict[str, Callable[[], object]] = {"encoder, eager": eager}
    if not options.eager:
        compiled = torch.compile(encoder, dynamic=False)
        ways["encoder, compiled"] = lambda: compiled(mel, lengths, FRAMES)
    if weight.is_cuda:
        for name, way in list(ways.items()):
            ways[f"{name}, CUDA graph"] = _as_graph(way)
    dim, ffn_dim = encoder.dims.dim, encoder.dims.ffn_dim
    products = [_product(weight, batch, *size) for size in ((dim, ffn_dim), (ffn_dim, dim))]
    rates, seconds = [], {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(options.turns):
        rates.append(max(work / _seconds(run, weight.device) for run, work in products))
        for name, way in ways.items():
            seconds[name].append(_seconds(way, weight.device))
    return [
        {
            "method": name,
            "batch": batch,
            "utterances_per_second": batch / statistics.median(own),
            "gflop": flops / batch / 1e9,
            "matrix_gflops": statistics.median(rates) / 1e9,
            "of_matrix_rate": statistics.median(
                flops / one / rate for one, rate in zip(own, rates, strict=True)
            ),
            "over_encoder_alone": 1.0,
            "quantizer_share": 0.0,
        }
        for name, own in seconds.items()
    ]


def _as_graph(run: Callable[[], object]) -> Callable[[], object]:
    """The same kernels, started at once."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):  # capturing must not meet what happens once
            run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _product(like: Tensor, batch: int, inner: int, outer: int) -> tuple[Callable[[], object], int]:
    """A bare product of a block's size, and its operations."""
    left, right = (
        torch.randn(shape).to(like) for shape in ((batch * FRAMES, inner), (inner, outer))
    )
    result = torch.mm(left, right)
    return lambda: torch.mm(left, right, out=result), 2 * len(left) * inner * outer


def _seconds(run: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Wall-clock, of one call."""
    run()
    _synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        run()
    _synchronize(device)
    return (time.perf_counter() - started) / repeats


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _to_codes(
    checkpoint: Path, alone: dict[str, Any], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """save_codebook.sh beside the encoder alone, both with the same batch."""
    device = torch.device(options.device)
    config = SaveCodebookConfig(
        encoder_type="huggingface-whisper",
        checkpoint=str(checkpoint),
        whisper_padding="30s",
        train_data=(_repeat(options.data, options.large_utterances, folder),),
        save_path=folder / "unset",
        batch_seconds=30.0 * alone["batch"],
        num_workers=options.num_workers,
        dtype=options.dtype,
        gpu="cpu" if device.type == "cpu" else str(device.index or 0),
    )
    ours = Ours(config, folder, device)
    speeds = []
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        ours.codes()
        _synchronize(device)
        speeds.append(options.large_utterances / (time.perf_counter() - started))
    quantizer = random_product(SHAPES[options.shape].dim, NUM_CODEBOOKS, CODEBOOK_SIZE).to(device)
    frames = torch.randn(alone["batch"] * FRAMES, quantizer.dim, device=device)
    quantizing = _seconds(lambda: quantizer.encode(frames), device) / alone["batch"]
    return {
        "method": "audio to codes",
        "batch": alone["batch"],
        "utterances_per_second": speeds[-1],
        "gflop": alone["gflop"],
        "of_matrix_rate": alone["of_matrix_rate"] * speeds[-1] / alone["utterances_per_second"],
        "over_encoder_alone": speeds[-1] / alone["utterances_per_second"],
        "quantizer_share": quantizing * speeds[-1],
        "num_workers": options.num_workers,
        "utterances": options.large_utterances,
    }


def _save(encoder: WhisperEncoder, dims: WhisperDims, folder: Path) -> Path:
    """As openai-whisper does, without a decoder."""
    names = ("n_mels", "n_audio_state", "n_audio_head", "n_audio_layer", "n_audio_ctx")
    sizes = (dims.num_mels, dims.dim, dims.num_heads, dims.num_layers, dims.num_positions)
    tensors = {f"encoder.{name}": each.half() for name, each in encoder.state_dict().items()}
    content = {"dims": dict(zip(names, sizes, strict=True)), "model_state_dict": tensors}
    path = folder / "large.pt"
    torch.save(content, path)
    return path


def _repeat(data: Path, number: int, folder: Path) -> Path:
    """A list of so many utterances of LibriSpeech."""
    rows = librispeech(data)
    path = folder / "large.list"
    with path.open("w") as file:
        for index in range(number):
            row = rows[index % len(rows)]
            line = {"key": f"{index}-{row['key']}", "wav": row["path"], "txt": ""}
            file.write(json.dumps(line) + "\n")
    return path
