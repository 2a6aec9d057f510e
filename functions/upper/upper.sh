#!/bin/sh
# Turns the letters a-z in the texts of a JSON value into upper case, from stdin to stdout. The
# words true, false and null, and escape sequences in a text, stay as they are.
set -eu
LC_ALL=C exec awk '
  { text = text (NR > 1 ? "\n" : "") $0 }
  END {
    quoted = 0
    for (at = 1; at <= length(text); at++) {
      letter = substr(text, at, 1)
      if (quoted && letter == "\\") {
        escape = substr(text, at, substr(text, at + 1, 1) == "u" ? 6 : 2)
        printf "%s", escape
        at += length(escape) - 1
        continue
      }
      if (letter == "\"") quoted = !quoted
      printf "%s", quoted ? toupper(letter) : letter
    }
    print ""
  }
'
