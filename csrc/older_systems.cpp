// What newer versions of libstdc++ and glibc have and a system with glibc 2.28 lacks: defined here,
// so that a library built on a newer system loads on every one that PyTorch's own wheels serve.
#include <new>
#include <sstream>

#ifdef __GLIBCXX__

// Headers leave these to libstdc++, whose constructors and str() are newer than that.
template class std::basic_stringbuf<char>;
template class std::basic_stringstream<char>;
template class std::basic_ostringstream<char>;

namespace std {
[[noreturn]] void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std

// Says that there may be several threads, as there always are beside torch.
extern "C" {
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
}

#endif
