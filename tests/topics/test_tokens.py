"""Tokens, tickets and signed names: valid ones, and all kinds of invalid ones."""

from __future__ import annotations

import base64
import json
import logging
import sys
import time

import jwt
import pytest
from asgiref.sync import async_to_sync
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st

from tiderace import conf
from tiderace.exceptions import TokenExpired, TokenInvalid
from tiderace.security import keys
from tiderace.security.credentials import subject_of
from tiderace.security.tickets import find_user, redeem
from tiderace.topics.tokens import (
    ConnectionToken,
    SubscriptionToken,
    connection_token,
    identify,
    read_connection_token,
    read_subscription_token,
    signed_topic,
    subscription_token,
    ticket,
    verified_topic,
)

SECRET = "a shared secret of more than thirty-two bytes"
OTHER = "another secret that has more than thirty-two bytes"


def pem_pair(private):
    """A private key and its public half as PEM."""
    return (
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        private.public_key()
        .public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )
        .decode(),
    )


RSA_PRIVATE, RSA_PUBLIC = pem_pair(rsa.generate_private_key(65537, 2048))
EC_PRIVATE, EC_PUBLIC = pem_pair(ec.generate_private_key(ec.SECP256R1()))


def wait(coroutine_function, *args, **kwargs):
    return async_to_sync(coroutine_function)(*args, **kwargs)


def use_keys(settings, *entries, **others):
    settings.TIDERACE = {"TOKEN_KEYS": list(entries), **others}


def hs256(key=SECRET, **more):
    return {"algorithm": "HS256", "key": key, **more}


def signed(claims, key=SECRET, algorithm="HS256", **headers):
    return jwt.encode(claims, key, algorithm=algorithm, headers=headers or None)


def forged(header, claims, signature=b""):
    """Return a token that is put together by hand."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(
        base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts
    )


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture(autouse=True)
def empty_cache():
    from django.core.cache import cache

    cache.clear()


@pytest.fixture
def keyed(settings):
    use_keys(settings, hs256())


@pytest.fixture
def user(db):
    return User.objects.create_user("ada", password="lovelace")


ADA = User(pk=7, username="ada")


# Connection tokens


def test_a_connection_token_contains_user_and_expiry():
    before = time.time()

    read = read_connection_token(
        connection_token(ADA, ttl=60, info={"name": "Ada"}, channels=["news", "#7"])
    )

    assert read == ConnectionToken(
        "7", read.expires_at, {"name": "Ada"}, ("news", "#7")
    )
    assert read.expires_at is not None
    assert before + 59 <= read.expires_at <= time.time() + 60


@pytest.mark.parametrize("nobody", [None, AnonymousUser()])
def test_a_visitor_without_an_account_is_the_empty_user(nobody):
    assert read_connection_token(connection_token(nobody)).user_id == ""


def test_a_token_of_an_unsaved_user_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match="is not saved"):
        connection_token(User(username="new"))


def test_a_ttl_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="ttl=0 makes"):
        connection_token(ADA, ttl=0)


def test_a_token_that_another_program_made_is_read(keyed):
    token = signed({"sub": "42", "subs": {"news": {"info": 1}}, "channels": ["all"]})

    read = read_connection_token(token)

    assert (read.user_id, read.expires_at) == ("42", None)
    assert (read.channels, read.subs) == (("all", "news"), {"news": {"info": 1}})


def test_expire_at_is_the_end_of_the_connection(keyed):
    later = int(time.time()) + 900
    token = signed({"sub": "42", "exp": later - 800, "expire_at": later})

    assert read_connection_token(token).expires_at == later


def test_expire_at_zero_means_that_the_connection_does_not_end(keyed):
    token = signed({"sub": "42", "exp": int(time.time()) + 60, "expire_at": 0})

    assert read_connection_token(token).expires_at is None


def test_expire_at_in_the_past_is_expired(keyed):
    token = signed({"sub": "42", "expire_at": int(time.time()) - 60})

    with pytest.raises(TokenExpired):
        read_connection_token(token)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": 42},
        {"sub": "42", "channels": "news"},
        {"sub": "42", "channels": [1]},
        {"sub": "42", "subs": ["news"]},
        {"sub": "42", "expire_at": "soon"},
        {"sub": "42", "expire_at": True},
        {"sub": "42", "expire_at": [1]},
        {"sub": "42", "expire_at": float("inf")},
        {"sub": "42", "exp": "soon"},
        {"sub": "42", "exp": float("nan")},
        {"sub": "42", "nbf": 9e9},
        {"sub": "42", "aud": "another app"},
    ],
    ids=str,
)
def test_a_claim_with_a_wrong_value_is_refused(keyed, claims):
    with pytest.raises(TokenInvalid):
        read_connection_token(signed(claims))


def test_a_token_made_by_a_clock_ahead_is_valid(keyed):
    assert read_connection_token(signed({"sub": "42", "iat": 9e9})).user_id == "42"


# Keys


def test_without_keys_in_the_settings_the_secret_key_signs(settings):
    token = connection_token(ADA)
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]

    assert read_connection_token(token).user_id == "7"

    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(TokenInvalid):
        read_connection_token(token)


def test_the_secret_key_itself_signs_no_token(settings):
    settings.SECRET_KEY = SECRET

    with pytest.raises(TokenInvalid):
        read_connection_token(signed({"sub": "1"}, SECRET))


@pytest.mark.parametrize(
    ("algorithm", "public", "private"),
    [("RS256", RSA_PUBLIC, RSA_PRIVATE), ("ES256", EC_PUBLIC, EC_PRIVATE)],
    ids=["RS256", "ES256"],
)
def test_a_pair_of_keys_signs_and_checks(settings, algorithm, public, private):
    use_keys(settings, {"algorithm": algorithm, "key": public, "private_key": private})

    token = connection_token(ADA)

    assert jwt.get_unverified_header(token)["alg"] == algorithm
    assert read_connection_token(token).user_id == "7"


def test_the_first_key_that_can_sign_does_and_all_of_them_check(settings):
    use_keys(settings, hs256(SECRET, id="old"))
    old = connection_token(ADA)
    public_only = {"algorithm": "RS256", "key": RSA_PUBLIC}
    use_keys(settings, public_only, hs256(OTHER, id="new"), hs256(SECRET, id="old"))

    new = connection_token(ADA)

    assert jwt.get_unverified_header(new)["kid"] == "new"
    assert read_connection_token(old).user_id == read_connection_token(new).user_id
    assert read_connection_token(signed({"sub": "8"})).user_id == "8"


def test_a_token_that_names_a_key_needs_that_key(settings):
    use_keys(settings, hs256(SECRET, id="one"))

    with pytest.raises(TokenInvalid, match="no configured key"):
        read_connection_token(signed({"sub": "1"}, kid="two"))


def test_a_token_under_the_id_of_a_key_needs_its_signature(settings):
    use_keys(settings, hs256(SECRET, id="one"))
    forged = jwt.encode({"sub": "1"}, OTHER, headers={"kid": "one"})

    with pytest.raises(TokenInvalid, match="signature"):
        read_connection_token(forged)


def test_a_key_that_only_checks_cannot_sign(settings):
    use_keys(settings, {"algorithm": "RS256", "key": RSA_PUBLIC})

    with pytest.raises(ImproperlyConfigured, match="private_key"):
        connection_token(ADA)


def test_audience_and_issuer_of_the_settings_are_written_and_asked_for(settings):
    use_keys(settings, hs256(), TOKEN_AUDIENCE="tide", TOKEN_ISSUER="me")

    assert read_connection_token(connection_token(ADA)).user_id == "7"
    for claims in [
        {"sub": "7"},
        {"sub": "7", "aud": "tide"},
        {"sub": "7", "iss": "me"},
        {"sub": "7", "aud": "tide", "iss": "you"},
        {"sub": "7", "aud": "ebb", "iss": "me"},
    ]:
        with pytest.raises(TokenInvalid):
            read_connection_token(signed(claims))


def test_a_short_secret_works_and_is_logged_once(settings, caplog):
    use_keys(settings, hs256("secret"))
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        tokens = [signed({"sub": str(n)}, "secret") for n in range(3)]

    read = [read_connection_token(token).user_id for token in tokens]

    assert read == ["0", "1", "2"]
    [record] = caplog.records
    assert record.message == (
        "TIDERACE['TOKEN_KEYS'][0] is 6 bytes long, so its tokens can be forged by "
        "trying; use 32 random bytes or more"
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"algorithm": "HS256"},
        {"algorithm": "HS256", "key": RSA_PUBLIC},
        {"algorithm": "RS256", "key": SECRET},
        {"algorithm": "ES256", "key": RSA_PUBLIC},
    ],
    ids=["no key", "a public key as a secret", "a secret as a key", "another kind"],
)
def test_an_invalid_key_is_refused_without_being_shown(settings, entry):
    use_keys(settings, entry)

    with pytest.raises(ImproperlyConfigured, match=r"TOKEN_KEYS'\]\[0\]") as caught:
        read_connection_token("a.b.c")

    assert "thirty-two" not in str(caught.value)
    assert "BEGIN" not in str(caught.value)


@pytest.mark.parametrize("algorithm", ["none", "HS512", "hs256", ""])
def test_the_settings_take_no_other_algorithm(algorithm):
    with pytest.raises(conf.UnknownSetting):
        conf.validate({"TOKEN_KEYS": [{"algorithm": algorithm, "key": SECRET}]})


def test_a_key_of_the_settings_does_not_show_its_secret():
    key = conf.validate({"TOKEN_KEYS": [hs256(id="one")]}).token_keys[0]

    assert repr(key) == "<TokenKey HS256 'one'>"


def test_without_cryptography_the_error_names_the_package(settings, monkeypatch):
    def missing(name):
        raise NotImplementedError

    use_keys(settings, {"algorithm": "RS256", "key": RSA_PUBLIC})
    monkeypatch.setattr(jwt, "get_algorithm_by_name", missing)

    with pytest.raises(ImproperlyConfigured, match="needs the package cryptography"):
        read_connection_token("a.b.c")


def test_without_pyjwt_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "jwt", None)

    with pytest.raises(ImproperlyConfigured, match=r"tiderace\[jwt\]"):
        connection_token(ADA)
    with pytest.raises(ImproperlyConfigured, match=r"tiderace\[jwt\]"):
        read_connection_token("a.b.c")


# Attacks on tokens


def test_a_token_signed_with_another_key_is_refused(keyed):
    with pytest.raises(TokenInvalid, match="signature"):
        read_connection_token(signed({"sub": "1"}, OTHER))


def test_an_expired_token_is_refused_as_expired(keyed):
    with pytest.raises(TokenExpired):
        read_connection_token(signed({"sub": "1", "exp": int(time.time()) - 60}))


def test_an_expired_token_of_another_key_is_not_called_expired(keyed):
    token = signed({"sub": "1", "exp": int(time.time()) - 60}, OTHER)

    with pytest.raises(TokenInvalid) as caught:
        read_connection_token(token)

    assert not isinstance(caught.value, TokenExpired)


@pytest.mark.parametrize("none", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_a_signature_is_refused(keyed, none):
    with pytest.raises(TokenInvalid):
        read_connection_token(forged({"alg": none, "typ": "JWT"}, {"sub": "1"}))


def test_a_signature_that_was_cut_off_is_refused(keyed):
    head, body, _ = connection_token(ADA).split(".")

    for token in [f"{head}.{body}.", f"{head}.{body}", f".{body}."]:
        with pytest.raises(TokenInvalid):
            read_connection_token(token)


def test_a_public_key_is_no_shared_secret(settings):
    """Algorithm confusion: RS256 is expected, HS256 with the public PEM is sent."""
    import hashlib
    import hmac

    use_keys(settings, {"algorithm": "RS256", "key": RSA_PUBLIC})
    unsigned = forged({"alg": "HS256"}, {"sub": "1"}).rstrip(".")
    mac = hmac.new(RSA_PUBLIC.encode(), unsigned.encode(), hashlib.sha256).digest()
    token = f"{unsigned}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"

    with pytest.raises(TokenInvalid, match="no configured key has its algorithm"):
        read_connection_token(token)


def test_a_key_that_the_token_brings_along_is_not_used(keyed):
    header = {"alg": "HS256", "jwk": {"kty": "oct", "k": "AAAA"}, "jku": "http://x/"}
    token = jwt.encode({"sub": "1"}, b"\0" * 32, algorithm="HS256", headers=header)

    with pytest.raises(TokenInvalid):
        read_connection_token(token)


def test_info_that_was_tampered_with_is_refused(keyed):
    head, body, signature = connection_token(ADA, info={"staff": False}).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["info"]["staff"] = True
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")

    with pytest.raises(TokenInvalid, match="signature"):
        read_connection_token(f"{head}.{body}.{signature}")


def test_an_oversized_token_is_refused_unread(keyed):
    token = signed({"sub": "1", "info": "x" * keys.MAX_TOKEN_LENGTH})

    with pytest.raises(TokenInvalid, match="longer than"):
        read_connection_token(token)


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"alg": ["HS256"]},
        {"alg": {"a": 1}},
        {"alg": "HS256", "kid": 7},
        {"alg": "HS256", "b64": False, "crit": ["b64"]},
    ],
    ids=str,
)
def test_a_header_of_the_wrong_kind_is_refused(keyed, header):
    with pytest.raises(TokenInvalid):
        read_connection_token(forged(header, {"sub": "1"}, b"x"))


def test_nesting_that_exhausts_the_stack_is_refused(keyed):
    deep = base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=")

    with pytest.raises(TokenInvalid):
        read_connection_token(f"{deep}.e30.AA")


def test_a_valid_signature_over_unreadable_claims_is_refused(keyed):
    for payload in (b"[" * 4000, b"[]", b"\xff", b"nothing"):
        token = jwt.PyJWS().encode(payload, SECRET, algorithm="HS256")
        with pytest.raises(TokenInvalid):
            read_connection_token(token)


@pytest.mark.parametrize(
    "token", ["", ".", "..", "...", "\0", "\ud800", "é.é.é", "a" * 9000, None, 7, b"x"]
)
def test_garbage_is_refused(keyed, token):
    with pytest.raises(TokenInvalid):
        read_connection_token(token)


@given(st.text(max_size=60))
def test_any_text_is_refused_without_another_error(text):
    for read in (read_connection_token, verified_topic):
        with pytest.raises(TokenInvalid):
            read(text)
    with pytest.raises(TokenInvalid):
        read_subscription_token(text, user_id="1", channel="a")


@given(st.integers(min_value=0), st.characters(codec="ascii"))
def test_no_single_character_of_a_token_can_be_changed(place, character):
    token = connection_token(ADA, ttl=600)
    place %= len(token)
    changed = token[:place] + character + token[place + 1 :]

    # The last characters of a base64 part may stand for the same bytes.
    if jwt.utils.base64url_decode(token.split(".")[2]) == _signature(changed) and (
        changed.split(".")[:2] == token.split(".")[:2]
    ):
        assert read_connection_token(changed).user_id == "7"
    else:
        with pytest.raises(TokenInvalid):
            read_connection_token(changed)


def _signature(token):
    try:
        return jwt.utils.base64url_decode(token.rsplit(".")[-1])
    except (ValueError, IndexError):
        return None


def test_a_signed_name_that_is_too_long_is_refused():
    with pytest.raises(TokenInvalid, match="too long"):
        verified_topic("x" * 9000)


@pytest.mark.parametrize("subject", [7, "half \ud83d"])
def test_a_subject_that_is_no_text_is_refused_whatever_checked_the_rest(subject):
    with pytest.raises(TokenInvalid, match="'sub'"):
        subject_of({"sub": subject})


@pytest.mark.parametrize("claims", [{"channels": ["\ud83d"]}, {"subs": {"\ud83d": {}}}])
def test_topics_of_a_token_with_lone_surrogates_are_refused(claims):
    with pytest.raises(TokenInvalid, match="'channels' and 'subs'"):
        read_connection_token(keys.encode({"sub": "7", **claims}, ttl=60))


# Subscription tokens


def test_a_subscription_token_is_for_one_user_and_topic():
    token = subscription_token(ADA, "room:tea", ttl=60, info={"seat": 4})

    read = read_subscription_token(token, user_id="7", channel="room:tea")

    assert read == SubscriptionToken("7", "room:tea", read.expires_at, {"seat": 4})
    assert read.expires_at is not None


@pytest.mark.parametrize(
    ("user_id", "channel", "why"),
    [
        ("7", "room:coffee", "another topic"),
        ("7", "room:tea ", "another topic"),
        ("8", "room:tea", "another user"),
        ("", "room:tea", "another user"),
    ],
)
def test_a_subscription_token_is_refused_for_another_user_or_topic(
    user_id, channel, why
):
    token = subscription_token(ADA, "room:tea")

    with pytest.raises(TokenInvalid, match=why):
        read_subscription_token(token, user_id=user_id, channel=channel)


def test_an_anonymous_subscription_token_is_refused_for_a_user():
    token = subscription_token(None, "room:tea")

    assert read_subscription_token(token, user_id="", channel="room:tea").user_id == ""
    with pytest.raises(TokenInvalid, match="another user"):
        read_subscription_token(token, user_id="7", channel="room:tea")


def test_a_subscription_token_is_refused_to_connect():
    with pytest.raises(TokenInvalid, match="subscription token"):
        read_connection_token(subscription_token(ADA, "room:tea"))


def test_a_connection_token_is_refused_to_subscribe():
    with pytest.raises(TokenInvalid, match="connection token"):
        read_subscription_token(
            connection_token(ADA, channels=["room:tea"]),
            user_id="7",
            channel="room:tea",
        )


def test_a_subscription_token_needs_a_topic():
    with pytest.raises(ValueError, match="one topic"):
        subscription_token(ADA, "")


# Tickets


def test_a_ticket_is_redeemed_for_its_user(user):
    assert wait(redeem, ticket(user)) == user


def test_a_ticket_is_a_legal_subprotocol_query_and_header(user):
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-=")

    assert set(ticket(user)) <= allowed - {"="}


def test_a_ticket_that_is_replayed_is_refused(user):
    one = ticket(user)
    wait(redeem, one)

    with pytest.raises(TokenInvalid, match="used before"):
        wait(redeem, one)


def test_a_ticket_for_several_uses_may_be_used_again(user):
    several = ticket(user, once=False)

    assert [wait(redeem, several), wait(redeem, several)] == [user, user]
    with pytest.raises(TokenInvalid, match="several times"):
        wait(redeem, several, only_once=True)


def test_an_old_ticket_is_expired(user, monkeypatch):
    old = ticket(user, ttl=30)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31)

    with pytest.raises(TokenExpired):
        wait(redeem, old)


def test_a_ticket_does_not_survive_a_change_of_password(user):
    old = ticket(user)
    user.set_password("other")
    user.save()

    with pytest.raises(TokenInvalid, match="changed the password"):
        wait(redeem, old)


def test_a_ticket_of_a_user_who_was_deactivated_is_refused(user):
    old = ticket(user)
    User.objects.update(is_active=False)

    with pytest.raises(TokenInvalid, match="gone or inactive"):
        wait(redeem, old)


def test_a_ticket_of_a_user_who_is_gone_is_refused(user):
    old = ticket(user)
    User.objects.all().delete()

    with pytest.raises(TokenInvalid, match="gone or inactive"):
        wait(redeem, old)


def test_a_value_signed_for_another_purpose_is_no_ticket(user):
    from django.core import signing

    other = signing.TimestampSigner(salt="other", sep=".").sign_object({"u": "1"})

    for text in [f"tiderace.ticket.{other}", "tiderace.ticket.", other, ""]:
        with pytest.raises(TokenInvalid):
            wait(redeem, text)


def test_an_oversized_or_foreign_ticket_is_refused(db):
    for text in ["tiderace.ticket." + "x" * 2000, "tiderace.ticket.é"]:
        with pytest.raises(TokenInvalid):
            wait(redeem, text)


def test_a_ticket_needs_a_saved_user_and_a_positive_ttl(user):
    with pytest.raises(ValueError, match="saved user"):
        ticket(AnonymousUser())
    with pytest.raises(ValueError, match="ttl=-1 makes"):
        ticket(user, ttl=-1)


def test_a_dummy_cache_is_refused_for_tickets(user, settings):
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}
    }

    with pytest.raises(ImproperlyConfigured, match="TICKET_CACHE"):
        wait(redeem, ticket(user))


def test_used_tickets_can_be_stored_in_another_cache(user, settings):
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"},
        "shared": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
    }
    settings.TIDERACE = {"TICKET_CACHE": "shared"}
    one = ticket(user)

    assert wait(redeem, one) == user
    with pytest.raises(TokenInvalid, match="used before"):
        wait(redeem, one)


def test_a_client_connects_with_a_ticket_or_a_token(user):
    by_ticket = wait(identify, ticket(user))
    by_token = wait(identify, connection_token(user))

    assert by_ticket == ConnectionToken(str(user.pk), None, is_ticket=True)
    assert by_token.user_id == str(user.pk)
    assert not by_token.is_ticket


@pytest.mark.parametrize("user_id", ["", "x", "-1", "9" * 40, "1\0"])
def test_an_unknown_user_id_finds_no_user(db, user_id):
    assert wait(find_user, user_id) is None


def test_a_user_is_found_by_the_id_of_a_token(user):
    assert wait(find_user, str(user.pk)) == user


# Signed names


def test_a_signed_name_is_read_back():
    signed_name = signed_topic("room:lobby")

    assert signed_name.startswith("room:lobby--a.")
    assert verified_topic(signed_name) == "room:lobby"


@pytest.mark.parametrize(
    "name", ["a--b", "--", "a-", "raum:küche", "a--a.00", "x" * 200]
)
def test_any_name_can_be_signed(name):
    assert verified_topic(signed_topic(name)) == name
    assert verified_topic(signed_topic(name, user=ADA, ttl=60), user=ADA) == name


def test_a_name_for_one_user_is_refused_for_others():
    signed_name = signed_topic("room:lobby", user=ADA)

    assert verified_topic(signed_name, user=ADA) == "room:lobby"
    for stranger in [None, AnonymousUser(), User(pk=8)]:
        with pytest.raises(TokenInvalid):
            verified_topic(signed_name, user=stranger)


def test_a_name_with_a_ttl_expires(monkeypatch):
    signed_name = signed_topic("room:lobby", ttl=60)
    now = time.time()

    assert verified_topic(signed_name) == "room:lobby"

    monkeypatch.setattr(time, "time", lambda: now + 61)
    with pytest.raises(TokenExpired):
        verified_topic(signed_name)


def test_user_and_expiry_cannot_be_removed_from_a_name():
    bound = signed_topic("room:lobby", user=ADA, ttl=60)
    mac = bound.rpartition(".")[2]
    head = bound.rpartition("--")[2].partition(".")[0]

    for forged_name in [
        f"room:lobby--a.{mac}",
        f"room:lobby--u.{mac}",
        f"room:lobby--a{head[1:]}.{mac}",
        f"room:lobby--u{head[1:]}0.{mac}",
        f"room:other--{head}.{mac}",
        f"room:lobby--{head}.{mac[:-1]}",
        f"room:lobby--{head}.",
        "room:lobby",
        f"--{head}.{mac}",
    ]:
        with pytest.raises(TokenInvalid):
            verified_topic(forged_name, user=ADA)


def test_a_name_survives_a_change_of_the_secret_key_while_the_old_one_is_kept(settings):
    signed_name = signed_topic("room:lobby")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "new", [settings.SECRET_KEY]

    assert verified_topic(signed_name) == "room:lobby"

    settings.SECRET_KEY_FALLBACKS = []
    with pytest.raises(TokenInvalid):
        verified_topic(signed_name)


@pytest.mark.parametrize(
    ("options", "why"),
    [({"ttl": 0}, "ttl=0 makes"), ({"user": AnonymousUser()}, "with an account")],
)
def test_invalid_arguments_for_a_signed_name_are_refused(options, why):
    with pytest.raises(ValueError, match=why):
        signed_topic("room:lobby", **options)


# Secrets stay secret


def test_no_error_shows_the_token(user, keyed, caplog):
    caplog.set_level(logging.DEBUG)
    used, voided = ticket(user), ticket(user)
    wait(redeem, used)
    user.set_password("other")
    user.save()
    expired = signed({"sub": "hush", "exp": 1})
    bad = [
        (read_connection_token, signed({"sub": "hush"}, OTHER)),
        (read_connection_token, expired),
        (read_connection_token, signed({"sub": "hush", "channel": "hush"})),
        (read_connection_token, signed({"sub": "hush", "aud": "hush"})),
        (read_connection_token, signed({"sub": "hush", "subs": "hush"})),
        (read_connection_token, forged({"alg": "hush"}, {"sub": "hush"})),
        (verified_topic, signed_topic("hush") + "0"),
    ]

    said = []
    for read, token in bad:
        with pytest.raises(TokenInvalid) as caught:
            read(token)
        said.append((token, caught.value))
    for text in (used, voided):
        with pytest.raises(TokenInvalid) as caught:
            wait(redeem, text)
        said.append((text, caught.value))

    for token, error in said:
        chain = f"{error} {error.__cause__} {caplog.text}"
        assert "hush" not in chain
        assert token[-20:] not in chain
        assert error.__suppress_context__ or error.__context__ is None
