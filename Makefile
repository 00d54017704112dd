# The two commands of README.md. What they do stands in tasks.py, so that Windows runs the same.
PYTHON ?= python3

.PHONY: demo test

demo:
	@$(PYTHON) -m tasks demo

test:
	@$(PYTHON) -m tasks test
