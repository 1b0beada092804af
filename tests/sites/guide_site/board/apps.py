from django.apps import AppConfig


class BoardConfig(AppConfig):
    name = "sites.guide_site.board"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self):
        from sites.guide_site.board import signals  # noqa: F401
