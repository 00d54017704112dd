# The commands of README.md and CONTRIBUTING.md. What they do stands in tasks.py, so that Windows runs the same.
PYTHON ?= python3

.PHONY: demo test slow faults

demo:
	@$(PYTHON) -m tasks demo

test:
	@$(PYTHON) -m tasks test

slow:
	@$(PYTHON) -m tasks slow

faults:
	@$(PYTHON) -m tasks faults
