/* The only file of the scratch image: says hello and ends with the code it is given. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    puts("hello from scratch");
    return argc > 1 ? atoi(argv[1]) : 0;
}
