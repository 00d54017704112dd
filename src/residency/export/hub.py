"""A model folder to a hub, with the token from the environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from residency.errors import UserError
from residency.hub import patient


@dataclass(frozen=True)
class Upload:
    """What goes, or went, to a hub: `files` with their bytes, and the commit's address (empty in a dry run)."""

    repo: str
    private: bool
    files: dict[str, int]
    address: str


def upload(folder: Path, repo: str, *, private: bool, dry_run: bool) -> Upload:
    """Send a folder to `repo`, which is made where it is missing; a dry run only says what would go.

    The token is that of `HF_TOKEN` or of `hf auth login`, the hub that of `HF_ENDPOINT`. It is written nowhere.

    Raises:
        UserError: there is no token, the name is no repository's, or the hub refuses or can't be reached.
    """
    files = {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}
    if dry_run:
        return Upload(repo, private, files, "")
    token = get_token()
    if not token:
        raise UserError("export --to hub: no token", "HF_TOKEN in the environment", "export HF_TOKEN=..., or --dry-run")
    api = HfApi(token=token)
    patient()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Model and card, by Residency")
    except HFValidationError as error:
        raise UserError(f"export --repo {repo}: {error}", "USER/NAME") from None
    except OfflineModeIsEnabled:
        raise UserError("export --to hub: HF_HUB_OFFLINE is set", fix="unset it, or take --dry-run") from None
    except HfHubHTTPError as error:
        reason = str(error).replace(token, "***")
        raise UserError(f"export --to hub: the hub refuses {repo} ({' '.join(reason.split())[:200]})") from None
    except Exception as error:
        if not _of_the_network(error):
            raise
        reason = str(error).replace(token, "***")
        raise UserError(
            f"export --to hub: it can't be reached ({' '.join(reason.split())[:200]})", fix="check network, HF_ENDPOINT"
        ) from None
    return Upload(repo, private, files, str(commit.commit_url))


def _of_the_network(error: Exception) -> bool:
    """huggingface_hub lets its HTTP library's errors through, and that is another one in each major version."""
    return isinstance(error, OSError) or any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
