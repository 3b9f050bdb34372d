"""Completion by Tab, where click's own is not enough."""

from __future__ import annotations

from click.shell_completion import BashComplete, add_completion_class


class _Bash(BashComplete):
    """bash takes `my_module:fn` for three words, and the frame after it for an argument too many."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is completed, and that one, as the command would get them."""
        args, incomplete = super().get_completion_args()
        words: list[str] = []
        for word in [*args, incomplete]:
            if words and word and (set(word) <= {":", "="} or words[-1].endswith((":", "="))):
                words[-1] += word
            else:
                words.append(word)
        return words[:-1], words[-1]


def prepare() -> None:
    """Have click complete by it."""
    add_completion_class(_Bash, "bash")
