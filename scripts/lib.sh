# Sourced by deps, quickstart and test: where things are, and how to say things.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv           # Python packages
deps=$root/.deps           # tools that Debian does not package, and what deps remembers
python=$venv/bin/python

# Only what scripts/deps installs, so that a run here says something about a run elsewhere.
system_path=/usr/sbin:/usr/bin:/sbin:/bin

say() {
  printf '%s\n' "$*"
}

# The name of the script comes first: these lines end up in other programs' logs.
warn() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
  warn "$*"
  exit 1
}
