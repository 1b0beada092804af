from django.db import migrations

from tiderace.outbox.operations import CreatePublishFunction


class Migration(migrations.Migration):
    dependencies = [("tiderace_outbox", "0001_initial")]

    operations = [CreatePublishFunction()]
