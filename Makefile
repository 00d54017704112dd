# The commands of README.md, CONTRIBUTING.md and docs/security.md. What they do stands in tasks.py, so that Windows runs the same.
PYTHON ?= python3

.PHONY: demo test slow faults audit sbom fuzz

demo:
	@$(PYTHON) -m tasks demo

test:
	@$(PYTHON) -m tasks test

# SERVICE=osv asks another database.
audit:
	@SERVICE=$(or $(SERVICE),pypi) $(PYTHON) -m tasks audit

sbom:
	@$(PYTHON) -m tasks sbom

fuzz:
	@$(PYTHON) -m tasks fuzz

slow:
	@$(PYTHON) -m tasks slow

faults:
	@$(PYTHON) -m tasks faults
