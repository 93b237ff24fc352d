/* A TPM for several users at once: what a resource manager does, as far as the tests need it.
 *
 * The TSS starts it (TCTI "cmd:bridge PORT") and speaks to it over standard input and output. Every command goes over a
 * connection of its own to 127.0.0.1, since swtpm serves one at a time, and the contexts that this user made and did not
 * flush are flushed when it leaves. It swaps nothing: there is room for three objects at once. */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEADER = 10, LARGEST = 4096, MOST = 64, FLUSH = 0x165 };

static const uint32_t makes_handle[] = {0x131, 0x157, 0x161, 0x167, 0x176, 0x191, 0x15b, 0x186};
static uint16_t port;

static uint32_t number(const uint8_t *octets) {
    uint32_t value;
    memcpy(&value, octets, 4);
    return ntohl(value);
}

/* Read one command or response; 0 at its end. */
static size_t take(int from, uint8_t *octets) {
    size_t got = 0, wanted = HEADER;
    while (got < wanted) {
        ssize_t some = read(from, octets + got, wanted - got);
        if (some <= 0) return 0;
        got += (size_t)some;
        if (got >= HEADER) wanted = number(octets + 2);
        if (wanted > LARGEST) return 0;
    }
    return got;
}

static size_t ask(const uint8_t *command, size_t size, uint8_t *response) {
    for (int attempt = 0; attempt < 1000; attempt++) {
        struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(port)};
        place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        int link = socket(AF_INET, SOCK_STREAM, 0);
        size_t got = 0;
        if (connect(link, (struct sockaddr *)&place, sizeof place)) attempt += 100;
        else if (send(link, command, size, MSG_NOSIGNAL) == (ssize_t)size) got = take(link, response);
        close(link);
        if (got) return got;
        usleep(1000);
    }
    exit(1);
}

int main(int count, char **arguments) {
    uint8_t command[LARGEST], response[LARGEST];
    uint32_t mine[MOST], known = 0;
    size_t size;
    port = count == 2 ? (uint16_t)atoi(arguments[1]) : 0;
    while ((size = take(0, command))) {
        size_t got = ask(command, size, response);
        if (!number(response + 6)) {
            uint32_t code = number(command + 6);
            for (size_t one = 0; one < sizeof makes_handle / sizeof *makes_handle; one++)
                if (code == makes_handle[one] && known < MOST) mine[known++] = number(response + 10);
            for (uint32_t one = 0; code == FLUSH && one < known; one++)
                if (mine[one] == number(command + 10)) mine[one--] = mine[--known];
        }
        if (write(1, response, got) != (ssize_t)got) break;
    }
    while (known) {
        uint8_t flush[14] = {0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x65};
        uint32_t handle = htonl(mine[--known]);
        memcpy(flush + 10, &handle, 4);
        ask(flush, sizeof flush, response);
    }
    return 0;
}
