"""timm's own test suite over our models.

It comes with timm's source distribution and not with its wheel, and tests use no network, so it
runs only where TIMM_SOURCE says where that source is unpacked:

    pip download --no-binary timm --no-deps timm==VERSION && tar xzf timm-VERSION.tar.gz
    TIMM_SOURCE=timm-VERSION pytest -m slow tests/integration/test_timm_suite.py

The checks that matter most to users are also in tests/zoo, where they always run.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm

import cassle_zoo

SOURCE = os.environ.get("TIMM_SOURCE", "")
# timm's ViTs and ResNets that these tests are about, by ours of the same kind.
NAMES = {
    "'test_resnet'": "'resnet18_cassle_simclr'",
    "'resnet18'": "'resnet18_cassle_simclr'",
    "'vit_tiny_patch16_224'": "'vit_small_cassle_mocov3'",
    "'test_vit'": "'vit_small_cassle_mocov3'",
}
# They need timm's train.py, weights of that name, or a loader of .npz files.
NOT_FOR_OURS = "custom_load or clearing_pretrained_source or clearing_hf_hub or test_train_"
METHODS = "simclr or mocov2 or mocov3 or barlow or byol or simsiam or vicreg"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(SOURCE, "tests/test_models.py").is_file(),
        reason="TIMM_SOURCE does not name an unpacked source distribution of timm",
    ),
]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """The tests, with our models in place of timm's where they name one."""
    version = Path(SOURCE, "timm/version.py").read_text(encoding="utf-8")
    assert repr(timm.__version__) in version, "another version than the timm that is installed"
    for path in Path(SOURCE, "tests").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "test_models.py":
            for theirs, ours in NAMES.items():
                text = text.replace(theirs, ours)
        (tmp_path / path.name).write_text(text, encoding="utf-8")
    marks = "base cfg cfg_nonstd forward backward features torchscript fxforward fxbackward timeout"
    lines = ["[pytest]", "markers =", *(f"    {mark}" for mark in marks.split())]
    (tmp_path / "pytest.ini").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "chosen"),
    [
        ("test_models.py", METHODS),
        ("test_input_conv.py", f"not ({NOT_FOR_OURS})"),
        ("test_checkpoint_loading.py", f"not ({NOT_FOR_OURS})"),
        ("test_model_input.py", f"not ({NOT_FOR_OURS})"),
    ],
)
def test_timms_tests_pass_over_our_models(suite: Path, file: str, chosen: str) -> None:
    ours = Path(cassle_zoo.__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ours), str(ours / "tests/shared")]),
        "HF_HUB_OFFLINE": "1",
    }
    plugins = ("-p", "only_ours", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *plugins, file, "-k", chosen],
        cwd=suite,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
