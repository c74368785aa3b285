// What a header defines is compiled into every instruction set. The linker keeps one of several functions of the same name,
// whichever comes first, and an older processor may not be able to run that one: so no such function may be left to it.
// What is meant for all sets is inlined everywhere: INLINE before a function, INLINE_MEMBER before a class's. For the same
// reason nothing of the standard library that is a template or inline is called in what is compiled per instruction set.
// tests/kernels/test_symbols.py holds all this.
#pragma once

#define INLINE_MEMBER inline __attribute__((always_inline))
#define INLINE static INLINE_MEMBER
