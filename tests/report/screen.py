"""A terminal's screen: just enough of one to see what a live display leaves on it."""

import re

_PIECE = re.compile(
    r"\x1b\[(?P<mode>\??)(?P<number>\d*)(?:;\d+)*(?P<letter>[A-Za-z])|(?P<text>[^\x1b\r\n]+)|(?P<end>[\r\n])"
)


class Screen:
    """Takes what a program writes; `rows` are the lines so far, scrolled ones included."""

    def __init__(self, *, width: int) -> None:
        self.width = width
        self.rows = [""]
        self.cursor_shown = True
        self._row = self._column = 0

    def write(self, text: str) -> None:
        """Applies text and control sequences. Raises: ValueError for a sequence that is not known here."""
        position = 0
        while position < len(text):
            piece = _PIECE.match(text, position)
            if piece is None:
                raise ValueError(f"not understood: {text[position : position + 12]!r}")
            position = piece.end()
            if piece["text"]:
                self._put(piece["text"])
            elif piece["end"]:
                self._column = 0
                self._down(piece["end"] == "\n")
            else:
                self._control(piece["letter"], number=piece["number"], is_private=bool(piece["mode"]))

    def text(self) -> str:
        """Everything on the screen and above it."""
        return "\n".join(row.rstrip() for row in self.rows).rstrip()

    def _put(self, text: str) -> None:
        for character in text:
            if self._column == self.width:
                self._column = 0
                self._down(True)
            row = self.rows[self._row].ljust(self._column)
            self.rows[self._row] = row[: self._column] + character + row[self._column + 1 :]
            self._column += 1

    def _down(self, moves: bool) -> None:
        self._row += moves
        while self._row >= len(self.rows):
            self.rows.append("")

    def _control(self, letter: str, *, number: str, is_private: bool) -> None:
        if is_private and number == "25":
            self.cursor_shown = letter == "h"
        elif letter == "A":
            self._row = max(0, self._row - int(number or 1))
        elif letter == "K" and number == "2":
            self.rows[self._row] = ""
        elif letter == "J" and number == "2":
            self.rows = [""]
        elif letter == "H":
            self._row = self._column = 0
        elif letter != "m":
            raise ValueError(f"not understood: {letter!r} with {number!r}")
