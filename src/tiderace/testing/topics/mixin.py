"""The testbed of topics for Django's test cases."""

from __future__ import annotations

import unittest

from tiderace.testing.topics.testbed import TopicsTestbed


class TopicsTestMixin(unittest.TestCase):
    """A mixin for Django's test cases; each test has a ``TopicsTestbed`` as ``topics``.

    class ChatTests(TopicsTestMixin, TestCase):
        def test_a_posted_message_is_published(self):
            self.client.post("/rooms/tea/say/", {"text": "hi"})
            self.assertEqual(self.topics.published_to("room:tea"), [{"text": "hi"}])
    """

    topics: TopicsTestbed

    # The testbed is not opened in setUp, which many tests override without calling it.
    def run(
        self, result: unittest.TestResult | None = None
    ) -> unittest.TestResult | None:
        """Run the test with an open testbed."""
        with TopicsTestbed() as self.topics:
            # Closed by a cleanup, so that an error in it is reported for this test.
            self.addCleanup(self.topics.close)
            return super().run(result)
