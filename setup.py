"""Package metadata; tool settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = (HERE / "k2distil" / "__init__.py").read_text().split('__version__ = "')[1].split('"')[0]

DEMO = ["espeakng-loader>=0.2.1"]
LHOTSE = ["lhotse>=1.33"]  # for `k2distil export --to lhotse` only
PEER = ["multi_quantization>=0.1"]
BENCH = [*PEER, "faiss-cpu>=1.8"]
DEV = [
    "coverage>=7.10",
    "hypothesis>=6.100",
    "mypy>=1.11",
    "psutil>=5.9",
    "pre-commit>=3.7",
    "pytest>=8.0",
    "pytest-cov>=5.0",
    "pytest-xdist>=3.6",
    "ruff>=0.11",
    "types-PyYAML",
    "types-tqdm",
]

setup(
    name="k2distil",
    version=VERSION,
    description="Multi-codebook (MVQ) knowledge distillation of big speech encoders",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["k2distil", "k2distil.*"]),
    install_requires=[
        "torch>=2.6",  # the first whose weights_only=True load is safe (CVE-2025-32434)
        "torchaudio>=2.6",  # only for what soundfile cannot decode; may be broken, see docs
        "h5py>=3.12.1",  # older ones crash on a full disk
        "numpy>=1.26",
        "openai-whisper>=20250625",  # older ones no longer build
        "transformers>=4.57.1,<6",  # 5.23 for students; older ones serve for teachers
        "huggingface_hub>=0.36",
        "safetensors>=0.4.3",
        "pyyaml>=6.0",
        "tqdm>=4.66",
        "soundfile>=0.12.1",
        "soxr>=0.5",
        "accelerate>=1.1",  # transformers' Trainer runs on it
        "jiwer>=3.1",
        "tensorboard>=2.14",
        "matplotlib>=3.8",  # of `k2distil report`
    ],
    extras_require={
        "demo": DEMO,
        "lhotse": LHOTSE,
        "bench": BENCH,
        "dev": DEV + DEMO + LHOTSE + PEER,
    },
    entry_points={"console_scripts": ["k2distil = k2distil.bin.main:main"]},
)
