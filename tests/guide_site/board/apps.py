from django.apps import AppConfig


class BoardConfig(AppConfig):
    name = "guide_site.board"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self):
        from guide_site.board import signals  # noqa: F401
