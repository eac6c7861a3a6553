"""Print the versions installed in this environment as constraints: `.venv/bin/python .ci/pin.py > constraints.txt`.

A version that a Python of `requires-python` cannot have is pinned only for those that can.
"""

from importlib.metadata import distributions

from packaging.specifiers import SpecifierSet

OLDEST = "3.10.0"
LEAVE_OUT = {"ostinato", "pip", "setuptools", "wheel"}

print("# Versions that the suite passed with; make installs everything under them. Written by .ci/pin.py.")
for distribution in sorted(distributions(), key=lambda found: found.metadata["Name"].lower()):
    name = distribution.metadata["Name"]
    if name in LEAVE_OUT:
        continue
    needs = SpecifierSet(distribution.metadata.get("Requires-Python") or "")
    marker = "" if needs.contains(OLDEST) else '; python_full_version >= "3.11.5"'
    print(f"{name}=={distribution.version.partition('+')[0]}{marker}")
