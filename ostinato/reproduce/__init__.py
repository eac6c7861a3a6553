"""Effects that papers report, shown again at a small scale: the files of `reproductions/`, and how they are run.

    found = reproduce("parity")         # trains what reproductions/parity.py describes, side by side in processes
    found.claims                        # what the paper says, what was measured here, and whether it holds
    found.holds                         # whether all of them do

Such a file is a module with a docstring (the first line is its title; the rest says what the paper claims, where, and how it
is tried here) and

    PAPERS = ("negative_eigenvalues",)  # ids, as `ostinato papers` lists them

    def trials(short): ...              # list of dicts: the arguments of each trial; a minute in all where short
    def trial(**arguments): ...         # one of them, in a process with one thread: trains, and returns measured values
    def claims(rows, short): ...        # list of Claim, from the rows: arguments and measured values of each trial

What did not reproduce says so in `NOT_REPRODUCED`, a sentence about what was tried. In a script, call `reproduce` under
``if __name__ == "__main__":``, because the processes import the script too.
"""

from ostinato.reproduce.effect import Claim, Effect, Reproduced, effects, find_effect, reproduce, reproduce_here

__all__ = ["Claim", "Effect", "Reproduced", "effects", "find_effect", "reproduce", "reproduce_here"]
