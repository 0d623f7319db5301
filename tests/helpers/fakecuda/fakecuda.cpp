// A fake CUDA device for a CPU build of torch: "cuda" tensors whose memory is host memory.
//
// Registers what libtorch_cuda would: an allocator, a device guard, hooks, a few view kernels, and a boxed fallback for
// every other operator, which runs the CPU kernel on aliases of the same memory. Before that it REFUSES what CUDA
// refuses: operands on two devices (but 0-dim CPU tensors in pointwise operators, and CPU indices of a CUDA tensor), a
// generator of another device, integer matrix products, operators outside ATen without a CUDA kernel. It counts what
// would stall a GPU: device-to-host copies, item(), operators whose output's shape depends on data.
#include <torch/extension.h>
#include <torch/library.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/op_registration/op_registration.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/is_set_to_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/alias_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/CPUAllocator.h>
#include <malloc.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <atomic>
#include <map>
#include <exception>
#include <mutex>
#include <set>
#include <unordered_map>

namespace fake {

using at::Tensor;
using c10::Device;
using c10::DeviceIndex;
constexpr auto CUDA = c10::DeviceType::CUDA;

int count_devices() {
  static int n = [] { const char* v = std::getenv("FAKE_CUDA_DEVICES"); return v ? std::atoi(v) : 1; }();
  return n;
}
thread_local DeviceIndex current = 0;
void check_fork() {  // as CUDA: a context does not survive fork()
  static pid_t first = getpid();
  TORCH_CHECK(getpid() == first, "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the 'spawn' start method (fake cuda)");
}

// ---------------------------------------------------------------- statistics
std::mutex lock;
std::map<std::string, int64_t> stalls;       // operator -> times
std::map<std::string, int64_t> seen;         // operators that reached the fallback
std::atomic<int64_t> launches{0}, live{0}, peak{0}, h2d{0}, h2d_bytes{0}, d2h_bytes{0};
py::object* callback = nullptr;              // called with (kind, operator) at each stall
std::atomic<bool> listening{false};

void tell(const char* kind, const std::string& name) {
  { std::lock_guard<std::mutex> g(lock); stalls[name]++; }
  if (listening && callback) {
    py::gil_scoped_acquire gil;
    (*callback)(kind, name);
  }
}

// ---------------------------------------------------------------- memory
void release(void* p) { if (p) { live -= malloc_usable_size(p); std::free(p); } }
int64_t memory() {  // bytes of all devices together
  static int64_t n = [] { const char* v = std::getenv("FAKE_CUDA_MEMORY"); return v ? std::atoll(v) : int64_t(80) << 30; }();
  return n;
}
struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    check_fork();
    void* p = nullptr;
    if (n) {
      TORCH_CHECK_WITH(OutOfMemoryError, live + static_cast<int64_t>(n) <= memory(), "CUDA out of memory. Tried to allocate ", n, " bytes (fake cuda)");
      TORCH_CHECK(posix_memalign(&p, 64, n) == 0, "fake cuda: out of memory");
      auto now = (live += malloc_usable_size(p));
      auto best = peak.load();
      while (now > best && !peak.compare_exchange_weak(best, now)) {}
    }
    return {p, p, &release, Device(CUDA, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t n) const override { std::memcpy(to, from, n); }
};
Allocator allocator;

std::mutex pinned_lock;
std::set<const void*> pinned;
void unpin(void* p) { { std::lock_guard<std::mutex> g(pinned_lock); pinned.erase(p); } std::free(p); }
struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t n) override {
    void* p = nullptr;
    TORCH_CHECK(posix_memalign(&p, 64, std::max<size_t>(n, 1)) == 0, "fake cuda: out of memory");
    { std::lock_guard<std::mutex> g(pinned_lock); pinned.insert(p); }
    return {p, p, &unpin, Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &unpin; }
  void copy_data(void* to, const void* from, size_t n) const override { std::memcpy(to, from, n); }
};
PinnedAllocator pinned_allocator;

// ---------------------------------------------------------------- generator
struct Generator final : c10::GeneratorImpl {
  at::Generator inner;
  explicit Generator(DeviceIndex i, uint64_t seed = c10::detail::getNonDeterministicRandom())
      : c10::GeneratorImpl(Device(CUDA, i), c10::DispatchKeySet(c10::DispatchKey::CUDA)),
        inner(at::make_generator<at::CPUGeneratorImpl>(seed)) {}
  void set_current_seed(uint64_t s) override { inner.set_current_seed(s); }
  void set_offset(uint64_t) override {}
  uint64_t get_offset() const override { return 0; }
  uint64_t current_seed() const override { return inner.current_seed(); }
  uint64_t seed() override { return const_cast<at::Generator&>(inner).seed(); }
  void set_state(const c10::TensorImpl& s) override { inner.unsafeGetGeneratorImpl()->set_state(s); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return inner.unsafeGetGeneratorImpl()->get_state(); }
  c10::GeneratorImpl* clone_impl() const override {
    auto* g = new Generator(device().index(), 0);
    g->inner = inner.clone();
    return g;
  }
};
std::vector<at::Generator>& defaults() {
  static std::vector<at::Generator> all = [] {
    std::vector<at::Generator> v;
    for (int i = 0; i < count_devices(); i++) v.push_back(at::make_generator<Generator>(i, c10::default_rng_seed_val));
    return v;
  }();
  return all;
}

// ---------------------------------------------------------------- guard and hooks
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return CUDA; }
  Device exchangeDevice(Device d) const override { Device old(CUDA, current); setDevice(d); return old; }
  Device getDevice() const override { return Device(CUDA, current); }
  void setDevice(Device d) const override {
    if (d.index() >= 0) {
      TORCH_CHECK(d.index() < count_devices(), "CUDA error: invalid device ordinal (fake cuda)");
      current = d.index();
    }
  }
  void uncheckedSetDevice(Device d) const noexcept override { if (d.index() >= 0) current = d.index(); }
  c10::Stream getStream(Device d) const override { return c10::Stream(c10::Stream::DEFAULT, Device(CUDA, d.index() < 0 ? current : d.index())); }
  c10::Stream getDefaultStream(Device d) const override { return getStream(d); }
  c10::Stream getStreamFromGlobalPool(Device d, bool) const override { return getStream(d); }
  c10::Stream getNewStream(Device d, int) const override { return getStream(d); }
  c10::Stream exchangeStream(c10::Stream s) const override { return getStream(s.device()); }
  void record(void** event, const c10::Stream&, const DeviceIndex, const c10::EventFlag) const override { if (!*event) *event = (void*)1; }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  DeviceIndex deviceCount() const noexcept override { return count_devices(); }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { tell("sync", "stream.synchronize"); }
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override { tell("sync", "device.synchronize"); }
  double elapsedTime(void*, void*, const DeviceIndex) const override { return 0; }
};

}  // namespace fake

namespace at {
struct CUDAHooks : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  const Generator& getDefaultGenerator(DeviceIndex i = -1) const override { return fake::defaults().at(i < 0 ? fake::current : i); }
  Generator getNewGenerator(DeviceIndex i = -1) const override { return at::make_generator<fake::Generator>(i < 0 ? fake::current : i); }
  Device getDeviceFromPtr(void*) const override { return Device(fake::CUDA, fake::current); }
  bool isPinnedPtr(const void* p) const override { std::lock_guard<std::mutex> g(fake::pinned_lock); return fake::pinned.count(p); }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex current_device() const override { return fake::current; }
  DeviceIndex deviceCount() const override { return fake::count_devices(); }
  void setCurrentDevice(DeviceIndex d) const override { if (d >= 0) fake::current = d; }
  DeviceIndex getCurrentDevice() const override { return fake::current; }
  DeviceIndex exchangeDevice(DeviceIndex d) const override { auto old = fake::current; if (d >= 0) fake::current = d; return old; }
  DeviceIndex maybeExchangeDevice(DeviceIndex d) const override { return exchangeDevice(d); }
  Allocator* getPinnedMemoryAllocator() const override { return &fake::pinned_allocator; }
  Allocator* getCUDADeviceAllocator() const override { return &fake::allocator; }
  int getNumGPUs() const override { return fake::count_devices(); }
  void deviceSynchronize(DeviceIndex) const override { fake::tell("sync", "device.synchronize"); }
};
REGISTER_CUDA_HOOKS(CUDAHooks);
}  // namespace at

namespace fake {
C10_REGISTER_GUARD_IMPL(CUDA, Guard);
struct Registered { Registered() { c10::SetAllocator(CUDA, &allocator, 1); } } registered;

// ---------------------------------------------------------------- aliases of one memory as CPU and as CUDA
struct Aliases {
  std::unordered_map<c10::StorageImpl*, c10::Storage> to_cpu;    // of a CUDA storage
  std::unordered_map<c10::StorageImpl*, c10::Storage> to_cuda;   // and back

  c10::Storage cpu_storage(const c10::Storage& s) {
    auto* impl = s.unsafeGetStorageImpl();
    auto found = to_cpu.find(impl);
    if (found != to_cpu.end()) return found->second;
    auto* keep = new c10::Storage(s);
    c10::DataPtr data(impl->mutable_data(), keep, [](void* p) { delete static_cast<c10::Storage*>(p); }, Device(c10::DeviceType::CPU));
    c10::Storage made(c10::Storage::use_byte_size_t(), impl->nbytes(), std::move(data), c10::GetCPUAllocator(), /*resizable=*/true);
    to_cpu.emplace(impl, made);
    to_cuda.emplace(made.unsafeGetStorageImpl(), s);
    return made;
  }
  Tensor cpu(const Tensor& t) {
    if (!t.defined() || !t.is_cuda()) return t;
    TORCH_CHECK(t.layout() == c10::kStrided, "fake cuda: only dense tensors");
    auto made = at::detail::make_tensor<c10::TensorImpl>(cpu_storage(t.storage()), c10::DispatchKeySet(c10::DispatchKey::CPU), t.dtype());
    made.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
    if (t.unsafeGetTensorImpl()->is_wrapped_number()) made.unsafeGetTensorImpl()->set_wrapped_number(true);
    if (t.is_conj()) made._set_conj(true);
    if (t.is_neg()) made._set_neg(true);
    return made;
  }
  Tensor cuda(const Tensor& t, Device device) {
    if (!t.defined()) return t;
    TORCH_CHECK(t.layout() == c10::kStrided, "fake cuda: an operator gave a tensor that is not dense");
    auto found = to_cuda.find(t.storage().unsafeGetStorageImpl());
    c10::Storage storage;
    if (found != to_cuda.end()) {
      storage = found->second;
    } else {
      auto* impl = t.storage().unsafeGetStorageImpl();
      auto n = impl->nbytes();
      live += n;
      auto now = live.load(); auto best = peak.load();
      while (now > best && !peak.compare_exchange_weak(best, now)) {}
      struct Held { c10::Storage s; int64_t n; };
      auto* keep = new Held{t.storage(), (int64_t)n};
      c10::DataPtr data(impl->mutable_data(), keep, [](void* p) { auto* h = static_cast<Held*>(p); live -= h->n; delete h; }, device);
      storage = c10::Storage(c10::Storage::use_byte_size_t(), n, std::move(data), &allocator, true);
      to_cuda.emplace(impl, storage);
    }
    auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CUDA), t.dtype());
    made.unsafeGetTensorImpl()->set_sizes_and_strides(t.sizes(), t.strides(), t.storage_offset());
    if (t.is_conj()) made._set_conj(true);
    if (t.is_neg()) made._set_neg(true);
    return made;
  }
  // After an operator wrote into an alias: follow its new shape and, where it was resized, its new memory.
  void settle(const Tensor& original, const Tensor& alias) {
    auto* storage = alias.storage().unsafeGetStorageImpl();
    auto* own = original.storage().unsafeGetStorageImpl();
    if (storage->data() != own->data()) {
      auto n = storage->nbytes();
      c10::DataPtr fresh = allocator.allocate(n);
      if (n) std::memcpy(fresh.mutable_get(), storage->data(), n);
      own->set_data_ptr_noswap(std::move(fresh));
      own->set_nbytes(n);
    }
    if (original.sizes() != alias.sizes() || original.strides() != alias.strides() || original.storage_offset() != alias.storage_offset())
      original.unsafeGetTensorImpl()->set_sizes_and_strides(alias.sizes(), alias.strides(), alias.storage_offset());
  }
};

// ---------------------------------------------------------------- what CUDA refuses
const std::set<std::string> DATA_DEPENDENT = {
  "aten::nonzero", "aten::masked_select", "aten::unique_consecutive", "aten::_unique", "aten::_unique2", "aten::unique_dim",
  "aten::unique_dim_consecutive", "aten::bincount", "aten::equal", "aten::_assert_async"};
const std::set<std::string> INTEGER_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmv", "aten::dot", "aten::addbmm", "aten::addr_"};
const std::set<std::string> LIFTS_SCALARS = {
  "aten::masked_fill", "aten::masked_fill_", "aten::where", "aten::fill_", "aten::index_put", "aten::index_put_",
  "aten::_index_put_impl_", "aten::lerp", "aten::lerp_", "aten::addcmul", "aten::addcdiv", "aten::clamp", "aten::full_like",
  "aten::_fused_adam_", "aten::_fused_adamw_", "aten::_fused_sgd_", "aten::index_fill_", "aten::index_fill", "aten::linalg_vector_norm"};

bool lifts(const c10::OperatorHandle& op, const std::string& name) {
  if (LIFTS_SCALARS.count(name) || name.rfind("aten::_foreach_", 0) == 0) return true;
  return op.hasTag(at::Tag::pointwise);
}

void collect(const c10::IValue& v, std::vector<Tensor>& into) {
  if (v.isTensor()) { if (v.toTensor().defined()) into.push_back(v.toTensor()); }
  else if (v.isTensorList()) { for (const Tensor& t : v.toTensorVector()) if (t.defined()) into.push_back(t); }
  else if (v.isOptionalTensorList()) { for (const std::optional<Tensor>& t : v.toOptionalTensorList().vec()) if (t && t->defined()) into.push_back(*t); }
  else if (v.isList()) { for (const c10::IValue& e : v.toListRef()) collect(e, into); }
}

std::string place(const Tensor& t) { std::ostringstream s; s << t.device() << " " << t.dtype() << t.sizes(); return s.str(); }

void refuse(const c10::OperatorHandle& op, const std::string& name, const torch::jit::Stack& stack, size_t begin) {
  const auto& arguments = op.schema().arguments();
  std::optional<Device> device;
  std::vector<Tensor> all;
  for (size_t i = begin; i < stack.size(); i++) collect(stack[i], all);
  for (const Tensor& t : all) if (t.is_cuda()) { device = t.device(); break; }
  if (!device) return;
  bool indexed = name == "aten::index" || name == "aten::index_put" || name == "aten::index_put_" || name == "aten::_index_put_impl_" || name == "aten::_unsafe_index" || name == "aten::_unsafe_index_put";
  for (size_t i = begin; i < stack.size(); i++) {
    std::vector<Tensor> here;
    collect(stack[i], here);
    for (const Tensor& t : here) {
      if (t.device() == *device) continue;
      bool index = indexed && arguments[i - begin].name() == "indices";
      if (index && t.is_cpu() && all[0].is_cuda()) { tell("h2d", name + "(cpu index)"); continue; }
      if (t.is_cpu() && t.dim() == 0 && lifts(op, name)) continue;
      if (t.is_cpu() && t.unsafeGetTensorImpl()->is_wrapped_number()) continue;
      std::string text;
      for (const Tensor& each : all) text += place(each) + ", ";
      TORCH_CHECK(false, "Expected all tensors to be on the same device, but found at least two devices, ", *device, " and ", t.device(),
                  "! (fake cuda: ", name, ".", op.schema().overload_name(), " argument '", arguments[i - begin].name(), "'; ", text, ")");
    }
    if (stack[i].isGenerator() && stack[i].toGenerator().defined())
      TORCH_CHECK(stack[i].toGenerator().device().is_cuda(), "Expected a 'cuda' device type for generator but found 'cpu' (fake cuda: ", name, ")");
  }
  if (INTEGER_PRODUCTS.count(name))
    for (const Tensor& t : all)
      TORCH_CHECK(!c10::isIntegralType(t.scalar_type(), true), "\"addmm_cuda\" not implemented for '", c10::toString(t.scalar_type()), "' (fake cuda: ", name, ")");
  bool ours = name.rfind("aten::", 0) == 0 || name.rfind("prims::", 0) == 0;
  TORCH_CHECK(ours || op.hasKernelForDispatchKey(c10::DispatchKey::CompositeImplicitAutograd),
              "Could not run '", name, "' with arguments from the 'CUDA' backend (fake cuda: not an ATen operator)");
  TORCH_CHECK(name.find("mkldnn") == std::string::npos && name.find("_cpu") == std::string::npos && name.find("fbgemm") == std::string::npos,
              "Could not run '", name, "' with arguments from the 'CUDA' backend (fake cuda)");
}

// ---------------------------------------------------------------- the fallback
void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto& arguments = schema.arguments();
  const std::string name = schema.name();
  const size_t begin = stack->size() - arguments.size();
  launches++;
  { std::lock_guard<std::mutex> g(lock); seen[name + (schema.overload_name().empty() ? "" : "." + schema.overload_name())]++; }
  refuse(op, name, *stack, begin);

  Aliases aliases;
  std::optional<Device> device;
  std::vector<c10::IValue> originals(stack->begin() + begin, stack->end());
  bool boolean_index = false;
  auto take = [&](const Tensor& t) {
    if (t.defined() && t.is_cuda() && !device) device = t.device();
    return aliases.cpu(t);
  };
  for (size_t i = 0; i < arguments.size(); i++) {
    c10::IValue& v = (*stack)[begin + i];
    if (v.isTensor()) {
      v = take(v.toTensor());
    } else if (v.isTensorList()) {
      c10::List<Tensor> made;
      for (const Tensor& t : v.toTensorVector()) made.push_back(take(t));
      v = made;
    } else if (v.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> made;
      for (const std::optional<Tensor>& t : v.toOptionalTensorList().vec()) {
        if (t && t->defined() && (t->scalar_type() == at::kBool || t->scalar_type() == at::kByte)) boolean_index = true;
        made.push_back(t ? std::optional<Tensor>(take(*t)) : std::nullopt);
      }
      v = made;
    } else if (v.isDevice()) {
      if (v.toDevice().is_cuda()) {
        if (!device) device = v.toDevice().index() < 0 ? Device(CUDA, current) : v.toDevice();
        v = Device(c10::DeviceType::CPU);
      }
    } else if (v.isGenerator() && v.toGenerator().defined() && v.toGenerator().device().is_cuda()) {
      v = static_cast<Generator*>(v.toGenerator().unsafeGetGeneratorImpl())->inner;
    }
  }
  if (!device) device = Device(CUDA, current);
  if (DATA_DEPENDENT.count(name)) tell("sync", name);
  else if (boolean_index && name == "aten::_index_put_impl_") tell("sync", name + "(mask)");  // index's own mask went through nonzero
  else if (name == "aten::repeat_interleave" && originals.back().isNone()) tell("sync", name);

  std::vector<c10::IValue> converted(stack->begin() + begin, stack->end());
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);

  std::map<std::string, size_t> written;  // alias set -> argument
  for (size_t i = 0; i < arguments.size(); i++) {
    const auto* info = arguments[i].alias_info();
    if (!info || !info->isWrite()) continue;
    for (const auto& s : info->beforeSets()) written[s.toUnqualString()] = i;
    const auto& was = originals[i];
    if (was.isTensor() && was.toTensor().defined() && was.toTensor().is_cuda()) aliases.settle(was.toTensor(), converted[i].toTensor());
    else if (was.isTensorList()) {
      auto a = was.toTensorVector(), b = converted[i].toTensorVector();
      for (size_t k = 0; k < a.size(); k++) if (a[k].defined() && a[k].is_cuda()) aliases.settle(a[k], b[k]);
    }
  }
  const auto& returns = schema.returns();
  const size_t out = stack->size() - returns.size();
  for (size_t i = 0; i < returns.size(); i++) {
    c10::IValue& v = (*stack)[out + i];
    const auto* info = returns[i].alias_info();
    if (info && info->isWrite() && !info->beforeSets().empty()) {
      auto found = written.find(info->beforeSets().begin()->toUnqualString());
      if (found != written.end()) { v = originals[found->second]; continue; }
    }
    if (v.isTensor()) {
      v = aliases.cuda(v.toTensor(), *device);
    } else if (v.isTensorList()) {
      c10::List<Tensor> made;
      for (const Tensor& t : v.toTensorVector()) made.push_back(aliases.cuda(t, *device));
      v = made;
    }
  }
}

// ---------------------------------------------------------------- kernels that need more than the fallback
Tensor empty(c10::IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device> device,
             std::optional<bool> pin, std::optional<at::MemoryFormat> format) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  c10::DeviceGuard guard(device.value_or(Device(CUDA, current)));
  return at::detail::empty_generic(size, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), dtype.value_or(at::get_default_dtype_as_scalartype()), format);
}
Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                     std::optional<Device> device, std::optional<bool> pin) {
  TORCH_CHECK(!pin.value_or(false), "Only dense CPU tensors can be pinned");
  c10::DeviceGuard guard(device.value_or(Device(CUDA, current)));
  return at::detail::empty_strided_generic(size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), dtype.value_or(at::get_default_dtype_as_scalartype()));
}
Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  int64_t bytes = source.numel() * source.element_size();
  launches++;
  if (self.is_cuda() && source.is_cpu()) {
    h2d++; h2d_bytes += bytes;
    bool is_pinned = false;
    { std::lock_guard<std::mutex> g(pinned_lock); is_pinned = source.has_storage() && pinned.count(source.storage().data()); }
    // pageable memory: cudaMemcpyAsync stages it and waits; from pinned memory without non_blocking torch waits
    tell("h2d", is_pinned && non_blocking ? "copy host to device, pinned and not waiting" : "copy host to device, waits");
  } else if (self.is_cpu() && source.is_cuda()) {
    d2h_bytes += bytes;
    tell("sync", non_blocking ? "copy device to host, not waiting" : "copy device to host");
  }
  Aliases aliases;
  aliases.cpu(self).copy_(aliases.cpu(source));
  return self;
}
Tensor copy_from_and_resize(const Tensor& self, const Tensor& to) {
  to.resize_(self.sizes());
  return const_cast<Tensor&>(to).copy_(self);
}
at::Scalar item(const Tensor& self) {
  tell("sync", "item");
  Aliases aliases;
  return aliases.cpu(self).item();
}
Tensor& resize_storage(Tensor& self) { return self; }
void record_stream(Tensor&, c10::Stream) {}
Tensor& set_empty(Tensor& self) {
  c10::Storage storage(c10::Storage::use_byte_size_t(), 0, allocator.allocate(0), &allocator, true);
  return self.set_(storage, 0, {0}, {});
}
Tensor& set_storage(Tensor& self, c10::Storage s) {
  auto n = static_cast<int64_t>(s.nbytes() / self.dtype().itemsize());
  return self.set_(s, 0, n, {});
}
Tensor& set_strided(Tensor& self, c10::Storage s, int64_t offset, c10::IntArrayRef size, c10::IntArrayRef stride) {
  at::native::checkSetStorage(self, s, offset, size, stride);
  self.unsafeGetTensorImpl()->set_storage_offset(offset);
  at::OptionalIntArrayRef maybe = stride.data() != nullptr ? at::OptionalIntArrayRef(stride) : std::nullopt;
  at::native::resize_impl_cpu_(self.unsafeGetTensorImpl(), size, maybe);
  return self;
}
Tensor& set_tensor(Tensor& self, const Tensor& source) {
  if (self.unsafeGetTensorImpl() != source.unsafeGetTensorImpl())
    return self.set_(source.storage(), source.storage_offset(), source.sizes(), source.strides());
  return self;
}
int64_t sdp_choice(const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool, std::optional<double>, bool) { return 0; }

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("copy_", &copy_);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &item);
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("resize_", TORCH_FN(at::native::resize_));
  m.impl("is_set_to", TORCH_FN(at::native::is_set_to));
  m.impl("view_as_real", TORCH_FN(at::native::view_as_real));
  m.impl("view_as_complex", TORCH_FN(at::native::view_as_complex));
  m.impl("set_", &set_empty);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Storage_storage_offset", &set_strided);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("record_stream", &record_stream);
  m.impl("_fused_sdp_choice", &sdp_choice);
}

// ---------------------------------------------------------------- for Python
Tensor as_cpu(const Tensor& t) { Aliases a; return a.cpu(t); }

}  // namespace fake

#include "fakenccl.h"

// Python ends a thread that asks for the interpreter while that is being taken down, and C++ ends the whole process
// where it does so within a function that may not throw. A device's thread of autograd does ask now and then. It stops
// here instead, and the process ends with the exit code that it was about to have.
void stop_at_the_end() {
  const bool is_main = static_cast<pid_t>(syscall(SYS_gettid)) == getpid();
  while (_Py_IsFinalizing() && !is_main) pause();
  std::abort();
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  std::set_terminate(stop_at_the_end);
  m.def("as_cpu", &fake::as_cpu, "A CPU tensor over the same memory");
  m.def("stalls", [] { std::lock_guard<std::mutex> g(fake::lock); return fake::stalls; });
  m.def("seen", [] { std::lock_guard<std::mutex> g(fake::lock); return fake::seen; });
  m.def("numbers", [] {
    return std::map<std::string, int64_t>{{"launches", fake::launches}, {"live", fake::live}, {"peak", fake::peak},
      {"h2d", fake::h2d}, {"h2d_bytes", fake::h2d_bytes}, {"d2h_bytes", fake::d2h_bytes}};
  });
  m.def("reset", [] {
    std::lock_guard<std::mutex> g(fake::lock);
    fake::stalls.clear(); fake::seen.clear(); fake::launches = 0; fake::h2d = 0; fake::h2d_bytes = 0; fake::d2h_bytes = 0;
  });
  m.def("reset_peak", [] { fake::peak = fake::live.load(); });
  m.def("listen", [](py::object f) {
    if (f.is_none()) { fake::listening = false; return; }
    delete fake::callback;
    fake::callback = new py::object(f);
    fake::listening = true;
  });
  m.def("resize_storage", [](const at::Tensor& holder, int64_t n) {  // FSDP frees what it gathered like this
    auto* s = holder.storage().unsafeGetStorageImpl();
    c10::DataPtr fresh = fake::allocator.allocate(n);
    if (n && s->nbytes()) std::memcpy(fresh.mutable_get(), s->data(), std::min<size_t>(n, s->nbytes()));
    s->set_data_ptr_noswap(std::move(fresh));
    s->set_nbytes(n);
  });
  m.def("device_count", &fake::count_devices);
  m.def("current_device", [] { return (int)fake::current; });
  m.def("set_device", [](int i) { if (i >= 0) { TORCH_CHECK(i < fake::count_devices(), "CUDA error: invalid device ordinal (fake cuda)"); fake::current = i; } });
  m.def("default_generator", [](int i) { return fake::defaults().at(i); });
  nccl::bind(m);
}
