"""Knows the dialogs that pages show, for whoever comes after one has opened.

Chromium tells of a dialog only to those who listen to its page when it opens, and takes an answer
only from them. So this listens from before a page loads anything, and answers questions at
DIALOGS_PORT, one line of JSON to each connection:

    {"target": T}                           ──> {"dialog": null or D}
    {"target": T, "accept": A, "text": X}   ──> {"error": null or why not}

D has the members of Page.javascriptDialogOpening.
"""

import asyncio
import json

from browser_process import SessionError

DIALOGS_PORT = 9223

# Bytes of a question, which has at most the text for a prompt.
MAX_QUESTION = 1 << 20

# Characters of a dialog's text that are told; Chromium shows about 2000.
MAX_TEXT = 4000


class Dialogs:
    """The dialogs of one Chromium's pages."""

    def __init__(self, chromium):
        self.chromium = chromium
        # By CDP session, of which a page may have several: its page, and the dialog that it shows.
        self.targets = {}
        self.open = {}

    async def attached(self, session, target):
        """Has a page tell its dialogs."""
        self.targets[session] = target
        # Not waited for: a page that shows a dialog already does not answer.
        self.chromium.begin(self.chromium.call("Page.enable", session))

    async def heard(self, session, event):
        """Deals with an event of a page."""
        if event["method"] == "Page.javascriptDialogOpening":
            self.open[session] = excerpt(event["params"])
        elif event["method"] == "Page.javascriptDialogClosed":
            self.open.pop(session, None)
        elif event["method"] == "Target.detachedFromTarget":
            self.open.pop(session, None)
            self.targets.pop(session, None)

    async def answer(self, question):
        """Returns the answer to a question."""
        # What Chromium has told before this is heard before its answer.
        await self.chromium.call("Browser.getVersion")
        shown = (known for known in self.open if self.targets.get(known) == question["target"])
        session = next(shown, None)
        if "accept" not in question:
            return {"dialog": self.open.get(session)}
        if session is None:
            return {"error": "No dialog is showing"}
        answer = {"accept": question["accept"]}
        if question.get("text") is not None:
            answer["promptText"] = question["text"]
        await self.chromium.call("Page.handleJavaScriptDialog", session, **answer)
        return {"error": None}


class DialogServer:
    """Answers questions about the dialogs of the Chromium that runs."""

    def __init__(self):
        self.dialogs = None
        self.server = None

    async def start(self):
        """Listens."""
        self.server = await asyncio.start_server(
            self.serve, "127.0.0.1", DIALOGS_PORT, limit=MAX_QUESTION
        )

    async def serve(self, reader, writer):
        """Answers one question."""
        try:
            question = json.loads(await reader.readline())
            try:
                answer = await self.dialogs.answer(question)
            except (KeyError, TypeError, SessionError) as error:
                answer = {"error": str(error)}
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        except (OSError, ValueError):
            # It was no question, or nobody waits for the answer.
            pass
        finally:
            writer.close()

    def end(self):
        """Listens no more."""
        if self.server is not None:
            self.server.close()
        self.server = None


def excerpt(dialog):
    """Returns a dialog with as much of its text as is told."""
    return {
        name: value[:MAX_TEXT] if isinstance(value, str) else value
        for name, value in dialog.items()
    }
