"""Services of the app, as routes get them."""

from types import SimpleNamespace

from server.routes.services import pipeline_of, registry_of


def test_services_are_those_of_the_app(client):
    request = SimpleNamespace(app=client.app)
    assert pipeline_of(request) is client.app.state.service.pipeline
    assert registry_of(request) is client.app.state.service.registry
