import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="RelayLease",
            fields=[
                (
                    "name",
                    models.CharField(max_length=20, primary_key=True, serialize=False),
                ),
                ("holder", models.CharField(blank=True, max_length=120)),
                ("beat", models.BigIntegerField(default=0)),
                ("renewed", models.DateTimeField(null=True)),
            ],
            options={"db_table": "tiderace_relay_lease"},
        ),
        migrations.CreateModel(
            name="WaitingPublication",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("topic", models.CharField(max_length=1024)),
                ("data", models.TextField()),
                ("tags", models.TextField(blank=True, null=True)),
                ("key", models.CharField(blank=True, db_default="", max_length=64)),
                (
                    "created",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                ("failed", models.DateTimeField(blank=True, null=True)),
                ("error", models.TextField(blank=True, null=True)),
            ],
            options={
                "verbose_name": "waiting publication",
                "db_table": "tiderace_outbox",
                "ordering": ["id"],
            },
        ),
    ]
