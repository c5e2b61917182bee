/* Compiled once for each header: it must not need another one before it. */
#include TEST_HEADER

int main(void)
{
    return 0;
}
