/* The vector table and the archives, in flash. The archives start on the boundary that the library asks for. */
    .syntax unified
    .section .vectors, "a"
    .word stack_top
    .word reset
    .rept 14
    .word fault
    .endr

    .section .archives, "a"
    .macro archive name, file
    .balign 64
    .global \name\()_start, \name\()_end
\name\()_start:
    .incbin "\file"
\name\()_end:
    .endm
    archive base, "tiny.lrk"
    archive adapter_a, "tiny-pirate.lrk"
    archive adapter_b, "tiny-notes.lrk"

    .section .note.GNU-stack, "", %progbits
