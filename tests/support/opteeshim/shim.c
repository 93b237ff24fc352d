/* A PKCS#11 module that behaves as OP-TEE's (libckteec with its trusted application) where that differs from SoftHSM2,
 * whose functions do the work. It is not OP-TEE: it shows that we live with these differences.
 *
 *  - always three slots, numbered 0, 1 and 2; tokens that were never initialised are there too, and write-protected;
 *  - no C_WaitForSlotEvent, no C_GetOperationState, no C_SetOperationState, no combined and no recovering functions;
 *  - C_GetFunctionStatus and C_CancelFunction answer CKR_FUNCTION_NOT_PARALLEL.
 *
 * REAL is the path of the module that does the work. The table is CK_FUNCTION_LIST of PKCS#11 2.40 (pkcs11f.h). */
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

typedef unsigned long word;
typedef word (*function)();

enum {
    INITIALIZE = 0, GET_LIST = 3, SLOT_LIST = 4, SLOT_INFO, TOKEN_INFO, MECHANISMS, MECHANISM_INFO, INIT_TOKEN,
    OPEN_SESSION = 12, CLOSE_ALL = 14, GET_OPERATION = 16, SET_OPERATION, SIGN_RECOVER_INIT = 46, SIGN_RECOVER,
    VERIFY_RECOVER_INIT = 52, VERIFY_RECOVER, DIGEST_ENCRYPT, DECRYPT_DIGEST, SIGN_ENCRYPT, DECRYPT_VERIFY,
    FUNCTION_STATUS = 65, CANCEL, WAIT_FOR_SLOT, COUNT
};
enum {
    OK = 0, SLOT_ID_INVALID = 3, NOT_PARALLEL = 0x51, NOT_SUPPORTED = 0x54, NOT_RECOGNIZED = 0xe1,
    BUFFER_TOO_SMALL = 0x150
};
enum { SLOTS = 3, MOST_REAL = 16, WRITE_PROTECTED = 2, TOKEN_PRESENT = 1 };

struct list {
    unsigned char version[2];
    function call[COUNT];
};

struct slot_info {
    char description[64], maker[32];
    word flags;
    unsigned char versions[4];
};

struct token_info {
    char label[32], maker[32], model[16], number[16];
    word flags, counts[10];
    unsigned char versions[4];
    char time[16];
};

static struct list shim;
static struct list *real;
static word real_slots[MOST_REAL], real_count;

static word unsupported() { return NOT_SUPPORTED; }
static word not_parallel() { return NOT_PARALLEL; }

static word refresh(void) {
    real_count = MOST_REAL;
    word code = real->call[SLOT_LIST]((unsigned char)0, real_slots, &real_count);
    if (code) real_count = 0;
    return code;
}

static word slot_list(unsigned char present, word *slots, word *count) {
    (void)present; /* every slot has its token, always */
    word code = refresh();
    if (code) return code;
    if (slots && *count < SLOTS) {
        *count = SLOTS;
        return BUFFER_TOO_SMALL;
    }
    for (word slot = 0; slots && slot < SLOTS; slot++) slots[slot] = slot;
    *count = SLOTS;
    return OK;
}

static int known(word slot) { return slot < SLOTS && (real_count || !refresh()) && slot < real_count; }

static word slot_info(word slot, struct slot_info *info) {
    if (slot >= SLOTS) return SLOT_ID_INVALID;
    if (known(slot)) return real->call[SLOT_INFO](real_slots[slot], info);
    memset(info, 0, sizeof *info);
    memset(info->description, ' ', sizeof info->description);
    memset(info->maker, ' ', sizeof info->maker);
    info->flags = TOKEN_PRESENT;
    return OK;
}

static word token_info(word slot, struct token_info *info) {
    if (slot >= SLOTS) return SLOT_ID_INVALID;
    if (known(slot)) return real->call[TOKEN_INFO](real_slots[slot], info);
    memset(info, 0, sizeof *info);
    memset(info->label, ' ', offsetof(struct token_info, flags));
    memset(info->time, '0', sizeof info->time);
    info->flags = WRITE_PROTECTED;
    return OK;
}

#define ON_SLOT(name, place, parameters, arguments)                                                                    \
    static word name parameters {                                                                                      \
        if (slot >= SLOTS) return SLOT_ID_INVALID;                                                                     \
        return known(slot) ? real->call[place] arguments : NOT_RECOGNIZED;                                             \
    }

ON_SLOT(mechanisms, MECHANISMS, (word slot, word *list, word *count), (real_slots[slot], list, count))
ON_SLOT(mechanism_info, MECHANISM_INFO, (word slot, word type, void *info), (real_slots[slot], type, info))
ON_SLOT(init_token, INIT_TOKEN, (word slot, void *pin, word size, void *label), (real_slots[slot], pin, size, label))
ON_SLOT(open_session, OPEN_SESSION, (word slot, word flags, void *data, void *notify, word *session),
        (real_slots[slot], flags, data, notify, session))
ON_SLOT(close_all, CLOSE_ALL, (word slot), (real_slots[slot]))

static word initialize(void *arguments) {
    real_count = 0;
    return real->call[INITIALIZE](arguments);
}

word C_GetFunctionList(struct list **found) {
    if (!real) {
        void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
        word (*get)(struct list **) = library ? (word(*)(struct list **))dlsym(library, "C_GetFunctionList") : 0;
        if (!get || get(&real)) return 5; /* CKR_GENERAL_ERROR */
        memcpy(&shim, real, sizeof shim);
        static const int missing[] = {GET_OPERATION, SET_OPERATION, SIGN_RECOVER_INIT, SIGN_RECOVER, WAIT_FOR_SLOT,
                                      VERIFY_RECOVER_INIT, VERIFY_RECOVER, DIGEST_ENCRYPT, DECRYPT_DIGEST,
                                      SIGN_ENCRYPT, DECRYPT_VERIFY};
        for (size_t one = 0; one < sizeof missing / sizeof *missing; one++) shim.call[missing[one]] = unsupported;
        shim.call[FUNCTION_STATUS] = shim.call[CANCEL] = not_parallel;
        shim.call[INITIALIZE] = (function)initialize;
        shim.call[GET_LIST] = (function)C_GetFunctionList;
        shim.call[SLOT_LIST] = (function)slot_list;
        shim.call[SLOT_INFO] = (function)slot_info;
        shim.call[TOKEN_INFO] = (function)token_info;
        shim.call[MECHANISMS] = (function)mechanisms;
        shim.call[MECHANISM_INFO] = (function)mechanism_info;
        shim.call[INIT_TOKEN] = (function)init_token;
        shim.call[OPEN_SESSION] = (function)open_session;
        shim.call[CLOSE_ALL] = (function)close_all;
    }
    *found = &shim;
    return OK;
}
