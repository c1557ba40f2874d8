"""The Python that has PyTorch loaded already does as the usual one, sooner."""

import os
import signal
import subprocess
import sys

import pytest

from qnet.util.base.pool import processes
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


def test_a_pool_a_file_and_a_piece_of_code_are_warm(warm, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("""
import sys
from operator import methodcaller
from qnet.util.base.pool import processes
loaded = "torch" in sys.modules
import torch
if __name__ == "__main__":
    with processes(2) as pool:
        print(loaded, *sys.argv[1:], *pool.map(methodcaller("item"), [torch.tensor(3), torch.tensor(4)]))
    sys.exit(5)
""", encoding="utf-8")
    done = subprocess.run([sys.executable, str(program), "a", "b"], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, "True a b 3 4\n", "")
    code = "import sys, program; print('torch' in sys.modules, sys.argv, __name__, program.loaded)"
    done = subprocess.run([sys.executable, "-c", code, "a"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "True ['-c', 'a'] __main__ True\n"
    with processes(1) as pool:
        assert pool.submit(eval, "'qnet.util.training.loop' in __import__('sys').modules").result()


def test_a_process_of_which_nothing_is_known_any_more_has_failed(warm_python):
    code = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"      # the process that would tell its status
    done = subprocess.run([warm_python, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (1, "the warmed Python ended\n")


def test_anything_else_is_done_by_the_usual_python(warm_python):
    words = [warm_python, "-E", "-c", "import sys; print(sys.executable, 'torch' in sys.modules)"]
    said = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
    assert said.stdout.split() == [sys.executable, "False"] and sys.executable != warm_python
