"""An object store in a folder of this machine, for processes that are killed.

Importing it makes ``s3://bucket/...`` an object below the folder that FOLDER_STORE
names. Like the real one it puts objects there whole, creates them only if there are
none where it is asked to, and knows no folders.
"""

import os
import uuid
from pathlib import Path

import fsspec


class FolderStore(fsspec.AbstractFileSystem):
    """Each object is a file, linked to its name once it is whole."""

    protocol = "s3"

    def _file(self, path):
        return Path(os.environ["FOLDER_STORE"]) / self._strip_protocol(path)

    def pipe_file(self, path, value, mode="overwrite"):
        """Put an object."""
        file = self._file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(os.environ["FOLDER_STORE"]) / f"draft-{uuid.uuid4().hex}"
        draft.write_bytes(value)
        try:
            if mode == "create":
                os.link(draft, file)
            else:
                draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)

    def cat_file(self, path):
        """Return what an object holds."""
        return self._file(path).read_bytes()

    def rm_file(self, path):
        """Remove an object."""
        self._file(path).unlink()

    def modified(self, path):
        """Return when it was put."""
        return fsspec.filesystem("file").modified(str(self._file(path)))

    def ls(self, path, detail=True):
        """Return what lies directly below."""
        key, file = self._strip_protocol(path), self._file(path)
        if file.is_file():
            found = [(key, file)]
        elif file.is_dir():
            found = [(f"{key}/{each.name}", each) for each in file.iterdir()]
        else:
            raise FileNotFoundError(path)
        infos = [
            {
                "name": name,
                "size": 0,
                "type": "directory" if each.is_dir() else "file",
            }
            for name, each in found
        ]
        return infos if detail else [info["name"] for info in infos]


fsspec.register_implementation("s3", FolderStore, clobber=True)
