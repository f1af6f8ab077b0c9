"""Keeps what is downloaded wherever a client of Chromium's has it saved.

Clients such as Playwright give finished files names and places of their own, in the guest, where
they cannot reach them. Each that is complete is also put where the session's downloads are.
"""

import os
import pathlib
import sys


class Downloads:
    """The downloads of one Chromium."""

    def __init__(self, chromium, directory):
        self.chromium = chromium
        self.directory = directory
        # Names that sites gave them, by their numbers.
        self.names = {}

    async def start(self):
        """Has Chromium tell of every download, whoever it is for."""
        self.chromium.listeners.append(self)
        await self.chromium.call(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(self.directory),
            eventsEnabled=True,
        )

    async def heard(self, event):
        """Deals with an event."""
        parameters = event["params"]
        if event["method"] == "Browser.downloadWillBegin":
            self.names[parameters["guid"]] = parameters["suggestedFilename"]
        elif event["method"] == "Browser.downloadProgress" and parameters["state"] != "inProgress":
            name = self.names.pop(parameters["guid"], "")
            path = pathlib.Path(parameters.get("filePath") or "/")
            if parameters["state"] == "completed" and path.parent != self.directory:
                self.keep(path, name)

    def keep(self, path, name):
        """Gives a file another name, among the downloads."""
        try:
            # Where its client deletes it, it stays here. A link would be linked, not followed.
            os.link(path, self.free_path(name), follow_symlinks=False)
        except OSError as error:
            print(f"cannot keep the download {name!r}: {error}", file=sys.stderr)

    def free_path(self, name):
        """Returns where a file of this name, or one like it, can be."""
        wanted = self.directory / (pathlib.PurePath(name).name or "download")
        path, number = wanted, 0
        while path.exists() or path.is_symlink():
            number += 1
            path = wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}")
        return path
