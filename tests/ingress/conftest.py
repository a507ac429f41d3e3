import shutil
from contextlib import ExitStack

import pytest
from shadow import Ingress, running_nginx, running_primary


@pytest.fixture
def start(tmp_path_factory):
    """Start ingresses with these options; all are stopped afterwards."""
    with ExitStack() as stack:

        def started(*options, **how):
            folder = tmp_path_factory.mktemp("ingress")
            found = Ingress(folder, *map(str, options), **how)
            stack.callback(found.stop)
            return found

        yield started


@pytest.fixture(scope="session")
def ingress(tmp_path_factory):
    """Share one ingress among tests that count before and after."""
    found = Ingress(tmp_path_factory.mktemp("shared"), "--read-deadline", "60s")
    yield found
    found.stop()


@pytest.fixture(scope="session")
def hasty(tmp_path_factory):
    """Share one that gives senders half a second."""
    found = Ingress(tmp_path_factory.mktemp("hasty"), "--read-deadline", "500ms")
    yield found
    found.stop()


@pytest.fixture(scope="session")
def primary_port():
    with running_primary() as port:
        yield port


@pytest.fixture
def nginx(tmp_path, primary_port):
    """Start NGINX as `deploy/nginx.conf` says, with some of its text changed."""
    assert shutil.which("nginx"), "install it: apt-get install nginx-light"
    with ExitStack() as stack:

        def started(ingress_port, *changes):
            return stack.enter_context(
                running_nginx(
                    tmp_path,
                    primary_port=primary_port,
                    ingress_port=ingress_port,
                    changes=changes,
                )
            )

        yield started
