/* A libcudart without a GPU, for the tests: device memory is the heap, and a stream does nothing until it is
   synchronized, so that whoever reads too early reads what was there before. Addresses and sizes of copies are checked
   against what is allocated, and everything that lives is counted. Error codes and texts are those of CUDA 12. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID_VALUE = 1, MEMORY_ALLOCATION = 2, NO_DEVICE = 100, ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900, INVALIDATED = 901 };
enum { DEVICE, HOST };

typedef struct Block { char *at; size_t size; int kind; struct Block *next; } Block;
typedef struct Op { void *to; const void *from; size_t size; void (*call)(void); struct Op *next; } Op;
typedef struct { Op *first, *last; int capturing, invalid; } Stream;
typedef struct { Op *first; } Graph;

static Block *blocks;
static int streams, graphs, capturing, devices = 1, major = 8, minor = 7;
static size_t free_bytes = (size_t)4 << 30, total_bytes = (size_t)8 << 30;
static char device_name[256] = "Orin", failing[64];
static int failure, failing_after;
static volatile int hanging, waiting;
static int uploads; /* copies to the device that were made */

static int fails(const char *name) {
    if (strcmp(name, failing) != 0 || failing_after-- > 0) return OK;
    failing[0] = 0;
    return failure;
}

/* For the tests. */
void fake_fail(const char *name, int code, int after) {
    strncpy(failing, name, sizeof failing - 1);
    failure = code;
    failing_after = after;
}
void fake_device(const char *name, int count, int high, int low) {
    strncpy(device_name, name, sizeof device_name - 1);
    devices = count; major = high; minor = low;
}
int fake_alive(int kind) {
    int count = 0;
    for (Block *block = blocks; block; block = block->next) count += block->kind == kind;
    return count;
}
int fake_streams(void) { return streams; }
int fake_graphs(void) { return graphs; }
int fake_uploads(void) { return uploads; }
int fake_capturing(void *stream) { return ((Stream *)stream)->capturing; }
void fake_invalidate(void *stream) { ((Stream *)stream)->invalid = 1; }

void fake_hang(int whether) { hanging = whether; } /* synchronizing does not return until it is 0 again */
int fake_waiting(void) { return waiting; }

static void push(Stream *stream, Op op) {
    Op *copy = malloc(sizeof op);
    *copy = op;
    copy->next = NULL;
    if (stream->last) stream->last->next = copy; else stream->first = copy;
    stream->last = copy;
}
void fake_enqueue(void *stream, void (*call)(void)) { push(stream, (Op){.call = call}); }

static void drop(Op *op) {
    while (op) { Op *next = op->next; free(op); op = next; }
}

static int inside(const void *at, size_t size, int kind) {
    for (Block *block = blocks; block; block = block->next)
        if (block->kind == kind && (char *)at >= block->at && (char *)at + size <= block->at + block->size) return 1;
    return 0;
}

static int allocate(const char *name, void **at, size_t size, int kind) {
    int code = fails(name);
    if (code) return code;
    if (capturing) return CAPTURE_UNSUPPORTED;
    Block *block = malloc(sizeof *block);
    *block = (Block){malloc(size), size, kind, blocks};
    memset(block->at, 0xAB, size);
    blocks = block;
    *at = block->at;
    return OK;
}

static int release(void *at, int kind) {
    for (Block **link = &blocks; *link; link = &(*link)->next) {
        Block *block = *link;
        if (block->at != at || block->kind != kind) continue;
        *link = block->next;
        free(block->at);
        free(block);
        return OK;
    }
    return INVALID_VALUE;
}

int cudaMalloc(void **at, size_t size) { return allocate("cudaMalloc", at, size, DEVICE); }
int cudaHostAlloc(void **at, size_t size, unsigned flags) { (void)flags; return allocate("cudaHostAlloc", at, size, HOST); }
int cudaFree(void *at) { return release(at, DEVICE); }
int cudaFreeHost(void *at) { return release(at, HOST); }

int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    int code = fails("cudaMemcpyAsync");
    if (code) return code;
    if (kind != 1 && kind != 2) return INVALID_VALUE;
    if (!inside(to, size, kind == 1 ? DEVICE : HOST) || !inside(from, size, kind == 1 ? HOST : DEVICE)) return INVALID_VALUE;
    push(stream, (Op){.to = to, .from = from, .size = size});
    return OK;
}

int cudaStreamCreateWithFlags(void **stream, unsigned flags) {
    int code = fails("cudaStreamCreateWithFlags");
    if (code || flags != 1) return code ? code : INVALID_VALUE;
    *stream = calloc(1, sizeof(Stream));
    streams++;
    return OK;
}
int cudaStreamDestroy(void *stream) {
    drop(((Stream *)stream)->first);
    free(stream);
    streams--;
    return OK;
}
int cudaStreamSynchronize(void *handle) {
    Stream *stream = handle;
    int code = fails("cudaStreamSynchronize");
    for (; hanging; waiting = 1) usleep(1000);
    waiting = 0;
    if (stream->capturing) { stream->invalid = 1; return CAPTURE_UNSUPPORTED; }
    Op *op = stream->first;
    stream->first = stream->last = NULL;
    for (Op *each = op; each && !code; each = each->next) {
        if (each->call) { each->call(); continue; }
        int up = inside(each->to, each->size, DEVICE) && inside(each->from, each->size, HOST);
        int down = inside(each->to, each->size, HOST) && inside(each->from, each->size, DEVICE);
        uploads += up;
        if (up || down) memcpy(each->to, each->from, each->size); else code = ILLEGAL_ADDRESS; /* freed meanwhile */
    }
    drop(op);
    return code;
}

int cudaStreamBeginCapture(void *handle, int mode) {
    Stream *stream = handle;
    int code = fails("cudaStreamBeginCapture");
    if (code || mode != 1 || stream->first || stream->capturing) return code ? code : INVALID_VALUE;
    stream->capturing = capturing = 1;
    stream->invalid = 0;
    return OK;
}
int cudaStreamEndCapture(void *handle, void **graph) {
    Stream *stream = handle;
    if (!stream->capturing) return INVALID_VALUE;
    Op *op = stream->first;
    stream->first = stream->last = NULL;
    stream->capturing = capturing = 0;
    if (stream->invalid) { drop(op); *graph = NULL; return INVALIDATED; }
    Graph *made = malloc(sizeof *made);
    made->first = op;
    *graph = made;
    graphs++;
    return OK;
}
int cudaGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    int code = fails("cudaGraphInstantiateWithFlags");
    if (code || flags) return code ? code : INVALID_VALUE;
    Stream copy = {0};
    for (Op *op = ((Graph *)graph)->first; op; op = op->next) push(&copy, *op);
    Graph *instance = malloc(sizeof *instance);
    instance->first = copy.first;
    *made = instance;
    graphs++;
    return OK;
}
int cudaGraphLaunch(void *graph, void *stream) {
    int code = fails("cudaGraphLaunch");
    if (code) return code;
    for (Op *op = ((Graph *)graph)->first; op; op = op->next) push(stream, *op);
    return OK;
}
static int drop_graph(void *graph) { drop(((Graph *)graph)->first); free(graph); graphs--; return OK; }
int cudaGraphDestroy(void *graph) { return drop_graph(graph); }
int cudaGraphExecDestroy(void *graph) { return drop_graph(graph); } /* one exported symbol must not call another: torch's
    libcudart may be loaded, and would answer */

int cudaGetDeviceCount(int *count) {
    int code = fails("cudaGetDeviceCount");
    *count = devices;
    return code ? code : devices ? OK : NO_DEVICE;
}
int cudaGetDevice(int *number) { *number = 0; return OK; }
int cudaGetDeviceProperties(void *properties, int number) {
    (void)number;
    memset(properties, 0xAB, 1032); /* sizeof(cudaDeviceProp) in CUDA 12 */
    memcpy(properties, device_name, sizeof device_name);
    return OK;
}
int cudaDeviceGetAttribute(int *value, int attribute, int number) {
    if (number || (attribute != 75 && attribute != 76)) return INVALID_VALUE;
    *value = attribute == 75 ? major : minor;
    return OK;
}
int cudaMemGetInfo(size_t *available, size_t *total) {
    *available = free_bytes;
    *total = total_bytes;
    return OK;
}

static const struct { int code; const char *name, *text; } ERRORS[] = {
    {OK, "cudaSuccess", "no error"},
    {INVALID_VALUE, "cudaErrorInvalidValue", "invalid argument"},
    {MEMORY_ALLOCATION, "cudaErrorMemoryAllocation", "out of memory"},
    {35, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"},
    {NO_DEVICE, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {ILLEGAL_ADDRESS, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {CAPTURE_UNSUPPORTED, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {INVALIDATED, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
};
static const char *known(int code, int text) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++)
        if (ERRORS[i].code == code) return text ? ERRORS[i].text : ERRORS[i].name;
    return "unrecognized error code";
}
const char *cudaGetErrorName(int code) { return known(code, 0); }
const char *cudaGetErrorString(int code) { return known(code, 1); }
