"""Every page of one Chromium, from before it loads anything until it is gone.

    Chromium ──a page, which waits──> Pages ──begins each watcher──> the page goes on
             ──events of the page───> Pages ───────────────────────> watchers
"""


class Pages:
    """Has watchers see all that the pages do."""

    def __init__(self, chromium, watchers):
        self.chromium = chromium
        self.watchers = watchers

    async def start(self):
        """Has every page that there is, and that comes, wait for its watchers."""
        self.chromium.listeners.append(self)
        await self.chromium.call(
            "Target.setAutoAttach",
            autoAttach=True,
            # What a new page does first shall be seen as well.
            waitForDebuggerOnStart=True,
            flatten=True,
            filter=[{"type": "page"}],
        )

    async def heard(self, event):
        """Deals with an event."""
        parameters = event["params"]
        if event["method"] == "Target.attachedToTarget":
            await self.attached(parameters["sessionId"], parameters["targetInfo"]["targetId"])
            return
        # That a page has gone is told by Chromium, with the session as a parameter.
        session = event.get("sessionId") or parameters.get("sessionId")
        if session is not None:
            for watcher in self.watchers:
                await watcher.heard(session, event)

    async def attached(self, session, target):
        for watcher in self.watchers:
            await watcher.attached(session, target)
        await self.chromium.call("Runtime.runIfWaitingForDebugger", session)
