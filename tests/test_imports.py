"""Importing the library is quick: heavy packages come in when they are used."""

import subprocess
import sys

import pytest


@pytest.mark.integration
def test_interactions_imports_only_torch_and_numpy():
    code = (
        "import sys, interactions\n"
        "heavy = {'scipy', 'pandas', 'matplotlib', 'captum', 'timm', 'torchvision', 'skimage',\n"
        "         'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.integration
def test_command_line_help_needs_no_torch():
    code = (
        "import sys\n"
        "sys.argv = ['a2mim', '--help']\n"
        "from a2mim.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as done:\n"
        "    print('code', done.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("code 0 False")
