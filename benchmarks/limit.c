/* The limit line: one epoll loop that broadcasts each message to all sockets.
 *
 * A frame is built once and sent with one send() per socket: the minimal work of a server
 * that does not combine messages into fewer writes. It has no other use: it accepts text
 * messages of up to 64 KB, answers no ping, and exits on an error.
 *
 * cc -O2 -o limit limit.c && ./limit PORT
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST = 65536, ROOM = 70000 };
typedef struct { int open; size_t used; unsigned char *in; size_t place; } Client;
static Client clients[MOST];
static int members[MOST];
static size_t count;

static void die(const char *what) { perror(what); exit(1); }

static uint32_t turn(uint32_t value, int bits) { return value << bits | value >> (32 - bits); }

/* SHA-1 of less than 120 bytes: a handshake's key and its GUID. */
static void sha1(const unsigned char *text, size_t size, unsigned char out[20]) {
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char block[128] = {0};
    size_t blocks = size < 56 ? 1 : 2;
    memcpy(block, text, size);
    block[size] = 0x80;
    for (int i = 0; i < 4; i++) block[blocks * 64 - 1 - i] = (unsigned char)(size * 8 >> 8 * i);
    for (size_t b = 0; b < blocks; b++) {
        uint32_t w[80], v[5];
        for (int i = 0; i < 16; i++) {
            const unsigned char *p = block + b * 64 + i * 4;
            w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
        }
        for (int i = 16; i < 80; i++) w[i] = turn(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        memcpy(v, h, sizeof v);
        for (int i = 0; i < 80; i++) {
            uint32_t f, k;
            if (i < 20) f = (v[1] & v[2]) | (~v[1] & v[3]), k = 0x5A827999;
            else if (i < 40) f = v[1] ^ v[2] ^ v[3], k = 0x6ED9EBA1;
            else if (i < 60) f = (v[1] & v[2]) | (v[1] & v[3]) | (v[2] & v[3]), k = 0x8F1BBCDC;
            else f = v[1] ^ v[2] ^ v[3], k = 0xCA62C1D6;
            uint32_t next = turn(v[0], 5) + f + v[4] + k + w[i];
            v[4] = v[3], v[3] = v[2], v[2] = turn(v[1], 30), v[1] = v[0], v[0] = next;
        }
        for (int i = 0; i < 5; i++) h[i] += v[i];
    }
    for (int i = 0; i < 20; i++) out[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static void base64(const unsigned char in[20], char out[29]) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 7; i++) {
        uint32_t three = (uint32_t)in[i * 3] << 16 | (uint32_t)in[i * 3 + 1] << 8;
        if (i < 6) three |= in[i * 3 + 2];
        for (int j = 0; j < 4; j++) out[i * 4 + j] = letters[three >> (18 - 6 * j) & 63];
    }
    out[27] = '=', out[28] = 0;
}

static void send_all(int socket, const unsigned char *data, size_t size) {
    while (size) {
        ssize_t sent = send(socket, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd writable = {socket, POLLOUT, 0};
            poll(&writable, 1, -1);
            continue;
        }
        if (sent < 0) return; /* it has left, which its own event will say */
        data += sent, size -= (size_t)sent;
    }
}

static void leave(int socket) {
    Client *client = &clients[socket];
    if (client->open) {
        members[client->place] = members[--count];
        clients[members[client->place]].place = client->place;
    }
    free(client->in);
    memset(client, 0, sizeof *client);
    close(socket);
}

static int handshake(int socket, Client *client) {
    char answer[256], accepted[29], text[128];
    unsigned char digest[20];
    client->in[client->used] = 0;
    char *end = strstr((char *)client->in, "\r\n\r\n");
    char *key = strcasestr((char *)client->in, "sec-websocket-key: ");
    if (!end || !key) return 0;
    int size = snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key + 19);
    sha1((unsigned char *)text, (size_t)size, digest);
    base64(digest, accepted);
    size = snprintf(answer, sizeof answer,
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accepted);
    send_all(socket, (unsigned char *)answer, (size_t)size);
    client->used = 0;
    client->open = 1;
    client->place = count;
    members[count++] = socket;
    return 1;
}

/* Broadcast one message; returns how many bytes it took, 0 while it is incomplete. */
static size_t message(unsigned char *in, size_t used) {
    static unsigned char out[ROOM];
    if (used < 2) return 0;
    size_t size = in[1] & 127, head = 2;
    if (size == 126) {
        if (used < 4) return 0;
        size = (size_t)in[2] << 8 | in[3], head = 4;
    }
    if (used < head + 4 + size) return 0;
    size_t start = size < 126 ? 2 : 4;
    out[0] = 0x81, out[1] = size < 126 ? (unsigned char)size : 126;
    if (start == 4) out[2] = (unsigned char)(size >> 8), out[3] = (unsigned char)size;
    for (size_t i = 0; i < size; i++) out[start + i] = in[head + 4 + i] ^ in[head + i % 4];
    for (size_t i = 0; i < count; i++) send_all(members[i], out, start + size);
    return head + 4 + size;
}

static void readable(int socket) {
    Client *client = &clients[socket];
    if (!client->in && !(client->in = malloc(ROOM))) die("malloc");
    ssize_t got = recv(socket, client->in + client->used, ROOM - 1 - client->used, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { leave(socket); return; }
    client->used += (size_t)got;
    if (!client->open) { handshake(socket, client); return; }
    size_t done = 0, took;
    while ((took = message(client->in + done, client->used - done))) done += took;
    client->used -= done;
    memmove(client->in, client->in + done, client->used);
}

int main(int argc, char **argv) {
    if (argc != 2) { fprintf(stderr, "usage: limit PORT\n"); return 2; }
    int yes = 1, door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), poller = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &address.sin_addr);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(door, (struct sockaddr *)&address, sizeof address) || listen(door, 4096)) die("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = door}, events[256];
    epoll_ctl(poller, EPOLL_CTL_ADD, door, &event);
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd != door) { readable(events[i].data.fd); continue; }
            int socket;
            while ((socket = accept4(door, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                if (socket >= MOST) { close(socket); continue; }
                setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = socket};
                epoll_ctl(poller, EPOLL_CTL_ADD, socket, &event);
            }
        }
    }
}
