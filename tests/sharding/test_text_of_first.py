"""A text that one process finds is the same in all of them.

A live policy directory is resolved once.
"""

import os
import subprocess
import sys

PROGRAM = """
import jax
from segr1_jax.runtime.processes import join_processes, text_of_first, wait_for_all

join_processes()
made = []

def find():
    made.append(1)
    return f"runs/sft/checkpoints/\\u00fc{jax.process_index()}"

for _ in range(2):
    print(text_of_first(find), len(made), flush=True)
print(repr(text_of_first(str)), flush=True)
wait_for_all("end")
"""


def test_both_processes_have_what_the_first_found(free_port):
    address = f"127.0.0.1:{free_port}"
    processes = []
    for index in range(2):
        variables = {
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(index),
            "XLA_FLAGS": "",
        }
        command = [sys.executable, "-c", PROGRAM]
        processes.append(
            subprocess.Popen(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    said = [[line for line in lines if "[Gloo]" not in line] for lines in outputs]
    assert said[0] == ["runs/sft/checkpoints/\u00fc0 1", "runs/sft/checkpoints/\u00fc0 2", "''"]
    assert said[1] == ["runs/sft/checkpoints/\u00fc0 0", "runs/sft/checkpoints/\u00fc0 0", "''"]
