// An emulation of libcuda.so.1 that loads every module, launches nothing and records each launch.
//
// It has the functions that Triton's driver and the launches from C++ call, with the types of the
// driver's interface reduced to what they are to a caller.
#include <pthread.h>
#include <stdint.h>
#include <string.h>

enum { MOST_PARAMETERS = 128, MOST_LAUNCHES = 1 << 16, MOST_FUNCTIONS = 1 << 16 };

typedef struct {
  unsigned grid[3], block[3], shared_bytes;
  void *stream, *attributes;
  unsigned attribute_count;
} Configuration;

typedef struct {
  int32_t id, padding;
  uint64_t value[8];
} Attribute;

typedef struct {
  uint64_t function;
  uint32_t grid[3], block[3], shared_bytes, attributes;
  int32_t attribute_id;
  uint32_t attribute_value;
  uint64_t stream;
  uint32_t parameters, padding;
  uint64_t values[MOST_PARAMETERS], contents[MOST_PARAMETERS];
} Launch;

static Launch launches[MOST_LAUNCHES];
static uint32_t recorded, counts[MOST_FUNCTIONS];
static uint8_t sizes[MOST_FUNCTIONS][MOST_PARAMETERS];
static uint64_t functions, modules;
static int recording;
static __thread void *context;  // each thread begins without one
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

// Strides, sizes and nulls are no addresses of a process.
static int is_address(uint64_t value) { return value >= 1 << 30 && value < (uint64_t)1 << 47; }

// For tests. A function is known by its number; `declare` says how many bytes its parameters have.
void declare(uint64_t function, uint32_t parameters, const uint8_t *bytes) {
  counts[function] = parameters;
  memcpy(sizes[function], bytes, parameters);
}
void record(int on) { recording = on; }
uint32_t count(void) { return recorded; }
const Launch *recorded_launches(void) { return launches; }
void forget(void) { recorded = 0; }

int cuLaunchKernelEx(const Configuration *c, void *function, void **parameters, void **extra) {
  for (int d = 0; d < 3; d++)
    if (c->grid[d] == 0 || c->block[d] == 0) return 1;  // CUDA_ERROR_INVALID_VALUE
  if (!context) return 201;  // CUDA_ERROR_INVALID_CONTEXT
  if (!recording) return 0;
  pthread_mutex_lock(&lock);
  const int fits = recorded < MOST_LAUNCHES;
  Launch *one = &launches[fits ? recorded++ : 0];
  memset(one, 0, sizeof *one);
  one->function = (uint64_t)function;
  memcpy(one->grid, c->grid, sizeof c->grid);
  memcpy(one->block, c->block, sizeof c->block);
  one->shared_bytes = c->shared_bytes;
  one->attributes = c->attribute_count;
  if (c->attribute_count) {
    const Attribute *first = c->attributes;
    one->attribute_id = first->id;
    one->attribute_value = (uint32_t)first->value[0];
  }
  one->stream = (uint64_t)c->stream;
  one->parameters = counts[one->function];
  for (uint32_t p = 0; p < one->parameters; p++) {
    const uint8_t bytes = sizes[one->function][p];
    memcpy(&one->values[p], parameters[p], bytes);
    // What is there of a tensor when the kernel begins: its first four bytes.
    if (bytes == 8 && is_address(one->values[p]))
      memcpy(&one->contents[p], (void *)one->values[p], 4);
  }
  pthread_mutex_unlock(&lock);
  return fits ? 0 : 1;
}

int cuModuleLoadData(void **module, const void *image) {
  *module = (void *)++modules;
  return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) {
  pthread_mutex_lock(&lock);
  *function = (void *)++functions;
  pthread_mutex_unlock(&lock);
  return functions < MOST_FUNCTIONS ? 0 : 1;
}
int cuModuleUnload(void *module) { return 0; }
int cuFuncGetAttribute(int *value, int attribute, void *function) {
  *value = attribute == 0 ? 1024 : 0;  // CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  *value = attribute == 97 ? 232448 : attribute == 75 ? 9 : attribute == 76 ? 0 : 132;
  return 0;
}
int cuPointerGetAttribute(uint64_t *data, int attribute, uint64_t pointer) {
  *data = pointer;
  return 0;
}
int cuPointerGetAttributes(unsigned n, int *attributes, void **data, uint64_t pointer) { return 1; }
int cuGetErrorString(int error, const char **text) {
  *text = "an error of the emulation";
  return 0;
}
int cuDriverGetVersion(int *version) {
  *version = 13000;
  return 0;
}
int cuCtxGetCurrent(void **current) {
  *current = context;
  return 0;
}
int cuCtxSetCurrent(void *other) {
  context = other;
  return 0;
}
int cuCtxGetDevice(int *device) {
  *device = 0;
  return 0;
}
int cuCtxGetLimit(uint64_t *value, int limit) {
  *value = 0;
  return 0;
}
int cuCtxSetLimit(int limit, uint64_t value) { return 0; }
int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDevicePrimaryCtxRetain(void **primary, int device) {
  *primary = (void *)1;
  return 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
int cuFuncSetCacheConfig(void *function, int configuration) { return 0; }
int cuOccupancyMaxActiveClusters(int *clusters, void *function, const Configuration *c) {
  *clusters = 1;
  return 0;
}
int cuTensorMapEncodeTiled(void) { return 1; }
