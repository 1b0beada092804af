from django.urls import path

from sites.guide_site.board import views

urlpatterns = [
    path("notify/", views.notify),
    path("maintenance/", views.maintenance),
    path("task/", views.run_task),
    path("post/", views.post),
    path("login/<str:username>/", views.log_in),
    path("away/<str:username>/", views.go_away),
    path("queue/", views.queue_page),
    path("room/<str:room_name>/<str:username>/", views.room_page),
]
