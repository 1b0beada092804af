"""Waiting until a page is subscribed, for what the server sends once."""

from __future__ import annotations

from playwright.sync_api import Page

__all__ = ["wait_for_subscription"]

# Any frame may have arrived before a test can wait for it, so the page's client is asked.
SUBSCRIBED = """async ([topic, module]) => {
  const { topics } = await import(module);
  const subscription = topics().subscribe(topic);
  if (subscription.state === "subscribed") return;
  await new Promise((done, fail) => {
    subscription.addEventListener("subscribed", done, { once: true });
    setTimeout(() => fail(new Error(`${topic} is ${subscription.state}`)), 20_000);
  });
}"""


def wait_for_subscription(page: Page, topic: str, *, module: str = "tiderace") -> None:
    """Wait until the page's client has subscribed to ``topic``.

    The scripts of the page run first, so that it is their subscription.

    Args:
        page: a page that is being loaded, or has been.
        topic: its name.
        module: the client's module, as the page imports it.
    """
    page.wait_for_load_state()
    page.evaluate(SUBSCRIBED, [topic, module])
