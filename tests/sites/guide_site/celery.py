"""The Celery application as a Django project has it; its queue is in memory."""

from celery import Celery

app = Celery("sites.guide_site", broker="memory://")
app.conf.broker_transport_options = {"polling_interval": 0.02}
app.set_default()
