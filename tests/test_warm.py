"""The Python that has PyTorch loaded already does as the usual one, sooner."""

import os
import signal
import subprocess
import sys

import pytest

from qnet.util.base.root import module_environment

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="there is one on Linux alone")
WORKER = ["-P", "-m", "qnet.util.label.worker"]


def test_a_module_gets_words_folder_and_streams_and_gives_its_status(warm_python, tmp_path):
    done = subprocess.run([warm_python, "-P", "-m", "qnet.util.predict.task_command", "show", "nothing.task"], cwd=tmp_path,
                          env=module_environment(), capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: nothing.task: no such file\n")
    job = '{"task": "nothing.task", "supports": [], "queries": [], "stones": []}\n'
    process = subprocess.Popen([warm_python, *WORKER], cwd=tmp_path, env=module_environment(), stdin=subprocess.PIPE,
                               stderr=subprocess.PIPE, encoding="utf-8")
    process.stdin.write(job)
    process.stdin.flush()
    assert process.stderr.read() == "error: nothing.task: no such file\n" and process.wait() == 1
    process.stdin.close()
    process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_signals_end_the_module(number, warm_python):
    process = subprocess.Popen([warm_python, *WORKER], env=module_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.send_signal(number)
    assert process.stdout.read() == b"" and process.wait() == -number       # nobody holds its stream any more
    process.stdin.close()
    process.stdout.close()


def test_anything_else_is_done_by_the_usual_python(warm_python):
    words = [warm_python, "-c", "import sys; print(sys.executable)"]
    said = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
    assert said.stdout.strip() == sys.executable != warm_python
