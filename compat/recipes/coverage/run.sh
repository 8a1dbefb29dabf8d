# Measure, combine and report; the report is what is compared.
"$1" -m coverage run program.py && "$1" -m coverage combine -q && "$1" -m coverage report -m
