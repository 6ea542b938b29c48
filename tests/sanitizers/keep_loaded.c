// SPDX-License-Identifier: Apache-2.0
// Linked into sanitizer builds of programs that use MPI: Open MPI's components stay in memory to
// the end, so that the frames of a report have names and lsan.supp can tell their leaks from ours.
int dlclose(void *handle);

int dlclose(void *handle)
{
    (void)handle;
    return 0;
}
