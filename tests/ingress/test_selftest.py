import subprocess
import sys

from shadow import CHAT, ROOT, free_port


def selftest(url, *options, env=None):
    return subprocess.run(
        [*(sys.executable, "-m", "canary.cli", "ingress", "--selftest", url), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=env,
    )


def test_the_shipped_configuration_passes(start, nginx):
    """Copies of all sizes arrive, without credentials, and nothing is recorded."""
    ingress = start()

    told = selftest(nginx(ingress.port) + CHAT, "--admin", ingress.admin)

    assert (0, "") == (told.returncode, told.stderr)
    *sizes, verdict = told.stdout.splitlines()
    assert ["1 KiB", "1 MiB", "2 MiB", "7 MiB"] == [s[:6].strip() for s in sizes]
    assert all("answer 200; a copy, whole, after " in size for size in sizes)
    assert "copies of every size arrive whole" == verdict
    assert [] == ingress.lines()
    # Nor is it traffic: its large bodies would hide that others are missing.
    assert 0 == ingress.metrics()["canary_ingress_body_bytes_count"]
    assert 4 == ingress.total("dropped_total", reason="selftest")


def test_credentials_that_come_along_are_told(start, nginx):
    """The selftest names them; they end at the door."""
    ingress = start()
    url = nginx(ingress.port, ('proxy_set_header Cookie "";', ""))

    told = selftest(url + CHAT, "--admin", ingress.admin)

    assert 0 == told.returncode
    assert "cookie came along and ended at the door" in told.stdout


def test_a_limit_for_users_is_told(start, nginx):
    """NGINX's own megabyte refuses users, too: the sentence says what to raise."""
    ingress = start()
    small = ("client_max_body_size 8m;", "client_max_body_size 1m;")

    told = selftest(nginx(ingress.port, small) + CHAT, "--admin", ingress.admin)

    assert 2 == told.returncode
    assert told.stderr.startswith("the proxy refuses bodies of 2 MiB, for users and")
    assert "client_max_body_size 8m" in told.stderr


def test_a_limit_for_copies_is_told(start, nginx):
    """Users are served and the copies are lost, as behind Envoy's buffer."""
    ingress = start("--max-body", "1536KiB")

    told = selftest(nginx(ingress.port) + CHAT, "--admin", ingress.admin)

    assert 2 == told.returncode
    assert told.stderr.startswith("copies of 2 MiB don't arrive, so long prompts would")


def test_no_mirror_at_all_is_told(start, nginx):
    """Nothing arrives: look at the mirror itself."""
    ingress = start()
    url = nginx(ingress.port, ("mirror /_canary;", "mirror off;"))

    told = selftest(url + CHAT, "--admin", ingress.admin)

    assert 2 == told.returncode
    assert told.stderr.startswith("no copy arrives at all: check that the mirror is on")


def test_what_isnt_there_is_told(start):
    """No admin page, no proxy, no address: one sentence each, exit 2."""
    nobody = f"http://127.0.0.1:{free_port()}"
    page = selftest(nobody, "--admin", nobody)
    proxy = selftest(nobody, "--admin", start().admin)
    address = selftest("localhost", "--admin", nobody)

    assert [2, 2, 2] == [page.returncode, proxy.returncode, address.returncode]
    assert f"{nobody}/healthz can't be reached" in page.stderr
    assert f"{nobody} can't be reached" in proxy.stderr
    assert "--selftest: 'localhost' is no address" in address.stderr
    assert [1, 1, 1] == [len(x.stderr.splitlines()) for x in (page, proxy, address)]
